"""Read label files: HDF5, one Fock matrix per molecule (attributes `format="fock-labels"`, `version`, `xc`, `basis`).

Ragged arrays are flattened with offsets; `fock` holds lower triangles, row-major (`pyscf.lib.pack_tril`), in PySCF's AO
order, hartree; positions are in bohr.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray
from pyscf import gto, lib

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

    Raises LabelError for a file that is not a label file, of another version, or broken.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as error:
            raise LabelError(f"{path}: not a readable HDF5 file ({error})") from None
        attributes = self._file.attrs
        if attributes.get("format") != FORMAT or attributes.get("version") != VERSION:
            raise LabelError(f"{path}: not a label file of format {FORMAT!r}, version {VERSION}")
        missing = [f"attribute {a!r}" for a in ("xc", "basis") if a not in attributes]
        missing += [f"dataset {d!r}" for d in DATASETS if d not in self._file]
        if missing:
            raise LabelError(f"{path}: broken label file, {missing[0]} is missing")
        self.theory = Theory(str(attributes["xc"]), str(attributes["basis"]))
        self._atoms = self._file["atom_offsets"][:]
        self._focks = self._file["fock_offsets"][:]
        self.names: list[str] = list(self._file["name"].asstr()[:])
        self.splits: list[str] = list(self._file["split"].asstr()[:])
        n = len(self.names)
        self.charges = self._file["charge"][:] if "charge" in self._file else np.zeros(n, dtype=np.int8)
        if len(set(self.names)) != n or len(self._atoms) != n + 1 or len(self._focks) != n + 1:
            raise LabelError(f"{path}: names are not unique, or offsets do not match {n} molecules")
        if self._atoms[-1] != len(self._file["positions"]) or self._focks[-1] != len(self._file["fock"]):
            raise LabelError(f"{path}: offsets do not match the number of positions or Fock elements; is it complete?")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, k: int) -> Label:
        atoms = slice(self._atoms[k], self._atoms[k + 1])
        return Label(
            name=self.names[k],
            atomic_numbers=self._file["atomic_numbers"][atoms].astype(np.int64),
            positions=self._file["positions"][atoms],
            charge=int(self.charges[k]),
            fock=self._file["fock"][self._focks[k] : self._focks[k + 1]],
            energy=float(self._file["energy"][k]),
            cycles_minao=int(self._file["cycles_minao"][k]),
            split=self.splits[k],
        )

    def __iter__(self) -> Iterator[Label]:
        return (self[k] for k in range(len(self)))
