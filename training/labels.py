"""Read label files: HDF5, one Fock matrix per molecule (attributes `format="fock-labels"`, `version`, `xc`, `basis`).

Ragged arrays are flattened with offsets; `fock` holds lower triangles, row-major (`pyscf.lib.pack_tril`), in PySCF's AO
order, hartree; positions are in bohr.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from pyscf import gto, lib

from training.hdf5 import REAL, TEXT, WHOLE, Damaged, attribute, column, damage, dataset, open_file

FORMAT, VERSION = "fock-labels", 1
DATASETS = (
    "atomic_numbers",
    "positions",
    "atom_offsets",
    "fock",
    "fock_offsets",
    "energy",
    "cycles_minao",
    "name",
    "split",
)


OPTIONAL = ("charge", "gradient_norm", "seconds", "gdb_index", "frame", "parent", "smiles")
_COLUMNS: dict[str, tuple[str, int | None]] = {
    **dict.fromkeys(("name", "split", "parent", "smiles"), (TEXT, None)),
    **dict.fromkeys(("atom_offsets", "fock_offsets", "atomic_numbers"), (WHOLE, None)),
    **dict.fromkeys(("cycles_minao", "charge", "gdb_index", "frame"), (WHOLE, None)),
    **dict.fromkeys(("fock", "energy", "gradient_norm", "seconds"), (REAL, None)),
    "positions": (REAL, 3),
}
FARTHEST = 1e5  # bohr from the origin; beyond it a position is no molecule's
_ELEMENTS = 118


class LabelError(ValueError):
    """A label file cannot be used; the message says why."""


@dataclass(frozen=True)
class Theory:
    """Level of theory of a label file."""

    xc: str
    basis: str


@dataclass(frozen=True)
class Label:
    """One labelled molecule.

    atomic_numbers (n_atoms,), positions (n_atoms, 3) bohr, charge; fock: lower triangle (nao (nao+1)/2,) float32,
    hartree; energy hartree; cycles_minao: SCF cycles from minao at PySCF's defaults, -1 where not run; split:
    train/val.
    """

    name: str
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    charge: int
    fock: NDArray[np.float32]
    energy: float
    cycles_minao: int
    split: str

    def __post_init__(self) -> None:
        if self.positions.shape != (len(self.atomic_numbers), 3):
            raise LabelError(f"{self.name}: positions {self.positions.shape} for {len(self.atomic_numbers)} atoms")
        if not (np.isfinite(self.fock).all() and np.isfinite(self.positions).all()):
            raise LabelError(f"{self.name}: the label holds NaN or infinite numbers; remove it or label it again")
        if not ((self.atomic_numbers > 0) & (self.atomic_numbers <= _ELEMENTS)).all():
            raise LabelError(f"{self.name}: atomic numbers that no element has; remove it or label it again")
        if np.abs(self.positions).max(initial=0.0) > FARTHEST:
            raise LabelError(f"{self.name}: atoms farther than {FARTHEST:g} bohr away; remove it or label it again")
        electrons = int(self.atomic_numbers.sum()) - self.charge
        if electrons <= 0 or electrons % 2:
            raise LabelError(f"{self.name}: {electrons} electrons at charge {self.charge}; labels are of closed shells")
        nao = math.isqrt(2 * len(self.fock))
        if nao * (nao + 1) // 2 != len(self.fock):
            raise LabelError(f"{self.name}: {len(self.fock)} elements are no lower triangle of a Fock matrix")

    @property
    def nelec(self) -> tuple[int, int]:
        """Electrons of each spin, closed shell."""
        pairs = (int(self.atomic_numbers.sum()) - self.charge) // 2
        return pairs, pairs

    def molecule(self, basis: str) -> gto.Mole:
        """The molecule as a PySCF `Mole`, silent."""
        atoms = [(int(z), x) for z, x in zip(self.atomic_numbers, self.positions, strict=True)]
        return gto.M(atom=atoms, unit="Bohr", charge=self.charge, basis=basis, verbose=0)

    def full_fock(self) -> NDArray[np.float64]:
        """Label Fock matrix (nao, nao), hartree, PySCF AO order."""
        return np.asarray(lib.unpack_tril(self.fock.astype(np.float64)))


class LabelFile:
    """An open label file; iterate to get its `Label`s, or index by position.

    Raises LabelError for a file that is not a label file, of another version, or broken. What it claims is checked
    against what is there before it is read (`training.hdf5`): a damaged file allocates nothing and reads no other one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = open_file(self.path)
        except (OSError, ValueError) as error:  # a name with NUL is a ValueError
            raise LabelError(f"{path}: not a readable HDF5 file ({error})") from None
        with self._named(), damage():
            self._open()

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Damaged as error:
            raise LabelError(f"{self.path}: {error}") from None

    def _open(self) -> None:
        if attribute(self._file, "format") != FORMAT or attribute(self._file, "version") != VERSION:
            raise Damaged(f"not a label file of format {FORMAT!r}, version {VERSION}")
        theory = {name: attribute(self._file, name) for name in ("xc", "basis")}
        missing = [f"attribute {name!r}" for name, value in theory.items() if value is None]
        missing += [f"dataset {name!r}" for name in DATASETS if name not in self._file.keys()]  # noqa: SIM118
        if missing:
            raise Damaged(f"broken label file, {missing[0]} is missing")
        self.theory = Theory(str(theory["xc"]), str(theory["basis"]))
        self.names: list[str] = column(self._dataset("name")).tolist()
        self.splits: list[str] = column(self._dataset("split")).tolist()
        n = len(self.names)
        if len(set(self.names)) != n:
            raise Damaged(f"names are not unique, or offsets do not match {n} molecules")
        self._numbers, self._positions = self._dataset("atomic_numbers"), self._dataset("positions")
        self._fock = self._dataset("fock")
        self.atom_offsets = self._offsets("atom_offsets", len(self._positions))
        self.fock_offsets = self._offsets("fock_offsets", len(self._fock))
        for name in ("split", "energy", "cycles_minao", *(name for name in OPTIONAL if name in self._file.keys())):  # noqa: SIM118
            if len(self._dataset(name)) != n:
                raise Damaged(f"dataset {name!r} does not match {n} molecules")
        if len(self._numbers) != len(self._positions):
            raise Damaged("offsets do not match the number of positions or Fock elements; is it complete?")
        charges = self.column("charge")
        self.charges = np.zeros(n, dtype=np.int8) if charges is None else charges
        self._energy, self._cycles = column(self._dataset("energy")), column(self._dataset("cycles_minao"))

    def _dataset(self, name: str) -> h5py.Dataset:
        kind, width = _COLUMNS[name]
        return dataset(self._file, name, kind, width)

    def _offsets(self, name: str, end: int) -> NDArray[np.int64]:
        offsets = column(self._dataset(name))
        if len(offsets) != len(self.names) + 1:
            raise Damaged(f"names are not unique, or offsets do not match {len(self.names)} molecules")
        if int(offsets[-1]) != end:
            raise Damaged("offsets do not match the number of positions or Fock elements; is it complete?")
        if int(offsets[0]) != 0 or not (offsets[1:] > offsets[:-1]).all():  # so none is beyond the end
            raise Damaged(f"{name} do not ascend from 0; copy the file or make it again")
        return offsets.astype(np.int64)

    def column(self, name: str) -> NDArray | None:
        """All of a dataset but `fock`, by its name, None where there is none. Raises LabelError."""
        with self._named(), damage():
            found = self._dataset(name)
            return None if found is None else column(found)

    def attribute(self, name: str) -> str | None:
        """An attribute as text, None where there is none. Raises LabelError as the file."""
        with self._named():
            value = attribute(self._file, name)
            return None if value is None else str(value)

    def fock(self, start: int, stop: int) -> NDArray[np.float32]:
        """Elements of all lower triangles behind each other, hartree. Raises LabelError as the file."""
        with self._named(), damage():
            return np.asarray(self._fock[start:stop])

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, k: int) -> Label:
        atoms = slice(self.atom_offsets[k], self.atom_offsets[k + 1])
        with self._named(), damage():
            numbers, positions = self._numbers[atoms].astype(np.int64), self._positions[atoms].astype(np.float64)
        return Label(
            name=self.names[k],
            atomic_numbers=numbers,
            positions=positions,
            charge=int(self.charges[k]),
            fock=self.fock(self.fock_offsets[k], self.fock_offsets[k + 1]),
            energy=float(self._energy[k]),
            cycles_minao=int(self._cycles[k]),
            split=self.splits[k],
        )

    def __iter__(self) -> Iterator[Label]:
        return (self[k] for k in range(len(self)))
