"""The molecules of a study: a folder of XYZ files, a multi-frame XYZ, a label file, a ragged npz, or a named set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pyscf.data import nist

from data.errors import MoleculeError, SetFileError
from data.settings import Source
from data.sources import read_source
from training.acceleration.protocol import ProtocolError
from training.bench.molecules import Molecule, read_labels, read_npz

# GDB indices in QM9 of the 50 molecules (23 to 27 atoms) of QH9's acceleration test on QH9-Stable: the intersection of
# the id and ood test splits, drawn with `numpy.random.default_rng(43).choice`, in the order drawn.
# fmt: off
QH9_ACCELERATION = (
    122646, 114954, 121799, 96566, 6556, 118842, 119915, 123264, 122020, 76895, 92347, 122028, 104877, 94934, 10779,
    93892, 122996, 80544, 118249, 118683, 96442, 63931, 77922, 100097, 118498, 96239, 103850, 94942, 41744, 122674,
    94693, 100122, 99781, 119772, 121951, 121878, 60046, 116450, 72127, 84009, 90335, 103076, 122022, 113813, 102321,
    101730, 13883, 122948, 106625, 92499,
)
# fmt: on

# One snapshot at 300 K each (GFN2-xTB Langevin dynamics, `data.prepare` with seed 300) of 16 QM9 molecules of 13 to 20
# atoms: the first of a shuffled list (seed 300) of the test molecules of QH9-Dynamic-300k that neither trained nor
# validated the shipped model.
SNAPSHOTS = Path(__file__).resolve().parents[2] / "data/sets/snapshots300k.xyz"


def _structures(source: Source, folder: Path) -> list[Molecule]:
    found = []
    for seed in read_source(source, folder):
        structure = seed.structure
        if structure is None:
            raise ProtocolError(f"{seed.name} has no geometry")
        numbers = tuple(int(z) for z in structure.atomic_numbers)
        found.append(Molecule(seed.name, numbers, structure.positions * nist.BOHR, structure.charge))
    return found


def _qh9_acceleration() -> list[Molecule]:
    return _structures(Source(kind="qm9", indices=QH9_ACCELERATION), Path())


def _snapshots() -> list[Molecule]:
    return _structures(Source(kind="xyz", files=(SNAPSHOTS.name,)), SNAPSHOTS.parent)


NAMED: dict[str, Callable[[], list[Molecule]]] = {
    "qh9-acceleration": _qh9_acceleration,
    "snapshots-300k": _snapshots,
}


def read_set(name: str) -> list[Molecule]:
    """Molecules of a named set (`NAMED`), or of a folder (its `*.xyz`), an `.xyz`, `.h5` (validation part) or `.npz`.

    Names are unique. Charges are taken from the comment lines of XYZ files (`charge=1`). Raises ProtocolError that says
    what cannot be read and why.
    """
    try:
        found = _read(name)
    except (SetFileError, MoleculeError) as error:
        raise ProtocolError(str(error)) from None
    except (OSError, KeyError) as error:
        raise ProtocolError(f"{name}: cannot be read ({error})") from None
    if not found:
        raise ProtocolError(f"{name} holds no molecules")
    return found


def _read(name: str) -> list[Molecule]:
    if name in NAMED:
        return NAMED[name]()
    path = Path(name)
    if path.is_dir():
        files = tuple(sorted(file.name for file in path.glob("*.xyz")))
        if not files:
            raise ProtocolError(f"{name}: no *.xyz in this folder")
        return _structures(Source(kind="xyz", files=files), path)
    readers: dict[str, Callable[[], list[Molecule]]] = {
        ".xyz": lambda: _structures(Source(kind="xyz", files=(path.name,)), path.parent),
        ".h5": lambda: read_labels([path]),
        ".npz": lambda: read_npz(path),
    }
    if not path.exists() or path.suffix not in readers:
        kinds = f"a folder of XYZ files, {', '.join(readers)}, or one of {', '.join(NAMED)}"
        raise ProtocolError(f"{name}: no such file, or of no kind that can be read ({kinds})")
    return readers[path.suffix]()
