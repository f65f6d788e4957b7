"""Write label files in the format that `training/labels.py` reads: HDF5, ragged arrays flattened with offsets.

A file comes into being at once: it is written under another name, flushed to the disk and renamed, so that no reader
ever sees a part of one, and an older file survives until the new one is complete.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyscf

from data.structure import LabelRow
from training.labels import FORMAT, VERSION

_CHUNK = 1 << 18  # elements; 1 MB of float32
# dataset -> type of the flattened ragged arrays, and of one value per molecule
_RAGGED = {"atomic_numbers": np.uint8, "positions": np.float64, "fock": np.float32}
_PER_MOLECULE: dict[str, Any] = {
    "energy": np.float64,
    "gradient_norm": np.float32,
    "cycles_minao": np.int16,
    "seconds": np.float32,
    "charge": np.int8,
    "gdb_index": np.int32,
    "frame": np.int32,
    "name": h5py.string_dtype(),
    "parent": h5py.string_dtype(),
    "smiles": h5py.string_dtype(),
    "split": h5py.string_dtype(),
}


@dataclass(frozen=True)
class Attributes:
    """What holds for a whole label file. conv: how the labels are converged; source: where the geometries are from."""

    xc: str
    basis: str
    grid_level: int
    conv: str
    source: str
    recipe: str = ""


class _Growing:
    """Buffered appending to resizable datasets: HDF5 calls are slow, so rows are collected before they are written."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._rows: list[tuple[LabelRow, str]] = []
        self._elements = 0
        for name, kind in _RAGGED.items():
            width = (3,) if name == "positions" else ()
            chunk = (_CHUNK // 8, 3) if width else (_CHUNK,)
            file.create_dataset(name, (0, *width), kind, chunks=chunk, maxshape=(None, *width), compression="gzip")
        for name, kind in _PER_MOLECULE.items():
            file.create_dataset(name, (0,), kind, chunks=(512,), maxshape=(None,))
        for name in ("atom_offsets", "fock_offsets"):
            file.create_dataset(name, (1,), np.int64, chunks=(512,), maxshape=(None,))

    def add(self, row: LabelRow, split: str) -> None:
        self._rows.append((row, split))
        self._elements += len(row.fock)
        if self._elements > 16 * _CHUNK:
            self.flush()

    def flush(self) -> None:
        if not self._rows:
            return
        rows = [row for row, _ in self._rows]
        structures = [row.structure for row in rows]
        self._extend("atomic_numbers", np.concatenate([s.atomic_numbers for s in structures]))
        self._extend("positions", np.concatenate([s.positions for s in structures]))
        self._extend("fock", np.concatenate([row.fock for row in rows]))
        for name, sizes in (
            ("atom_offsets", [s.n_atoms for s in structures]),
            ("fock_offsets", [len(r.fock) for r in rows]),
        ):
            self._extend(name, self._file[name][-1] + np.cumsum(sizes))
        for name in ("energy", "gradient_norm", "cycles_minao", "seconds"):
            self._extend(name, [getattr(row, name) for row in rows])
        for name in ("charge", "gdb_index", "frame", "name", "parent", "smiles"):
            self._extend(name, [getattr(s, name) for s in structures])
        self._extend("split", [split for _, split in self._rows])
        self._rows, self._elements = [], 0

    def _extend(self, name: str, values: Any) -> None:
        dataset = self._file[name]
        n = len(dataset)
        dataset.resize(n + len(values), axis=0)
        dataset[n:] = values


def _check_room(path: Path, room: int) -> None:
    """Ask for disk space and give it back. Raises OSError where there is none."""
    with path.open("wb") as file:
        if room and hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(file.fileno(), 0, room)
            except OSError as error:
                raise OSError(error.errno, f"no room for the {room / 1e6:.0f} MB of a label file", str(path)) from None


def write_labels(path: Path, attributes: Attributes, rows: Iterable[tuple[LabelRow, str]], room: int = 0) -> int:
    """Write a label file of (row, split) pairs; returns how many. Rows are streamed, never all in memory.

    room: bytes that the file will need at most, so that a full disk is found before it is written: HDF5 may crash the
    process where a write fails. Raises OSError where the disk is full or not writable; an older file at `path` is then
    untouched. One process may write to a path at a time.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    n = 0
    try:
        _check_room(partial, room)
        with h5py.File(partial, "w") as file:
            file.attrs.update({"format": FORMAT, "version": VERSION, "units": "bohr, hartree"})
            file.attrs.update({"ao_order": "pyscf spherical", "pyscf_version": pyscf.__version__})
            file.attrs.update(vars(attributes))
            growing = _Growing(file)
            for row, split in rows:
                growing.add(row, split)
                n += 1
            growing.flush()
        with partial.open("rb+") as handle:
            os.fsync(handle.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return n
