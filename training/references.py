"""Reference matrices of a label file, computed once and cached: `python -m training.references --labels FILE... `.

The cache holds one small file per molecule, written atomically, so that an interrupted run goes on where it stopped and
several runs may share it. F0 and all responses are stored: every number of steps, mixed or not, is served by the same
cache, as long as the damping in between is the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyscf import lib
from tqdm import tqdm

from pyscf_tracegrad.config import MAX_STEPS, ReferenceSettings
from pyscf_tracegrad.reference import Reference, build_reference, combine
from training.command import command, make_parser, positive, worker_pool
from training.files import file_name, read_arrays, replace_file
from training.labels import Label, LabelFile, Theory

CACHE = Path("runs/references")
_DAMPING = ReferenceSettings().damping


@dataclass(frozen=True)
class CachedReference:
    """F0 and responses of one molecule as stored: lower triangles (ntri,) and (n, ntri), hartree; overlap (ntri,)."""

    initial: NDArray[np.float64]
    responses: NDArray[np.float32]
    overlap: NDArray[np.float64]

    def fits(self, ntri: int, n_responses: int) -> bool:
        """Whether it is of a label with `ntri` elements, and whole."""
        shapes = self.initial.shape == self.overlap.shape == (ntri,) and len(self.responses) == n_responses
        numbers = (self.initial, self.responses, self.overlap)
        return (
            shapes
            and self.responses.shape in ((n_responses, ntri), (0,))
            and all(x.dtype.kind == "f" and bool(np.isfinite(x).all()) for x in numbers)
        )

    def reference(self, settings: ReferenceSettings, nelec: tuple[int, int]) -> Reference:
        """F_ref after the number of steps that `settings` names; nelec: electrons of each spin."""
        overlap = lib.unpack_tril(self.overlap)
        unpacked = [lib.unpack_tril(packed.astype(np.float64)) for packed in self.responses[: settings.n_responses]]
        responses = np.array(unpacked).reshape(-1, *overlap.shape)  # PySCF does not unpack an array of none
        fock = combine(lib.unpack_tril(self.initial), responses, overlap, settings, nelec)
        return Reference(fock, responses, overlap)


def cache_folder(theory: Theory, settings: ReferenceSettings, root: Path = CACHE) -> Path:
    """Folder for references of these settings; of the steps only the damping in between is part of its name."""
    general = _stored(settings)
    key = hashlib.sha256(f"{theory} {general}".encode()).hexdigest()[:10]
    return root / f"{settings.strategy}-{key}"


def _stored(settings: ReferenceSettings) -> ReferenceSettings:
    """The settings that a cache is made with: all responses; what is made of them is left to the reader."""
    between = (*settings.damping, *_DAMPING[len(settings.damping) :])[: MAX_STEPS - 1]
    steps = MAX_STEPS if settings.strategy == "minao" else 0
    return dataclasses.replace(settings, steps=steps, gauge=False, mixing="damped", damping=(*between, 0.0))


def _fingerprint(label: Label) -> str:
    data = label.positions.tobytes() + label.atomic_numbers.tobytes() + bytes([label.charge % 256])
    return hashlib.sha256(data).hexdigest()[:16]


def cached_reference(label: Label, basis: str, settings: ReferenceSettings, folder: Path) -> CachedReference:
    """Load the reference of one molecule from the cache, or compute and store it."""
    path = folder / f"{file_name(label.name)}-{_fingerprint(label)}.npz"
    stored = _stored(settings)
    try:
        data = read_arrays(path)
        packed = CachedReference(data["initial"], data["responses"], data["overlap"])
    except (OSError, ValueError, KeyError):
        pass
    else:
        if packed.fits(len(label.fock), stored.n_responses):
            return packed
    result = build_reference(label.molecule(basis), stored)
    packed = CachedReference(
        lib.pack_tril(result.pairs[0].fock if result.pairs else result.fock),
        np.array([lib.pack_tril(g) for g in result.responses], dtype=np.float32),
        lib.pack_tril(result.overlap),
    )
    folder.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    np.savez(content, **{f.name: getattr(packed, f.name) for f in dataclasses.fields(packed)})
    replace_file(path, content.getbuffer())
    return packed


def _fill_one(task: tuple[str, int, ReferenceSettings, Path]) -> None:
    path, k, settings, folder = task
    with lib.with_omp_threads(1):
        labels = LabelFile(path)
        cached_reference(labels[k], labels.theory.basis, settings, folder)


def fill_cache(paths: list[str], settings: ReferenceSettings, workers: int, root: Path = CACHE) -> None:
    """Compute the missing references of label files, with their functional, in `workers` processes of one thread."""
    tasks = []
    for path in paths:
        labels = LabelFile(path)
        own = dataclasses.replace(settings, xc=labels.theory.xc)
        folder = cache_folder(labels.theory, own, root)
        tasks += [(path, k, own, folder) for k in range(len(labels))]
    with worker_pool(workers) as pool:
        for _ in tqdm(pool.map(_fill_one, tasks), total=len(tasks), desc="references", unit="mol", mininterval=5):
            pass


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.references", __doc__)
    parser.add_argument("--labels", nargs="+", required=True, metavar="FILE", help="label files (HDF5)")
    parser.add_argument("--strategy", choices=("minao", "sap"), default="minao", help="what a reference begins from")
    parser.add_argument("--workers", type=positive, default=1, help="processes of one thread")
    return parser


@command("references made so far are kept; run the same command again, it goes on where it stopped")
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: fill the cache for label files."""
    a = options().parse_args(arguments)
    fill_cache(a.labels, ReferenceSettings(a.strategy, steps=0), a.workers)


if __name__ == "__main__":
    sys.exit(main())
