"""A molecule on its way to a label: `Seed` before it has a geometry, `Structure`, `LabelRow` with its Fock matrix."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.data import radii
from scipy.spatial.distance import pdist

from data.errors import MoleculeError
from training.labels import FARTHEST

Array = NDArray[np.float64]

MOST_ATOMS = 2000
CLOSEST = 0.6  # bohr; H2 has 1.4, and nothing shorter than 1.3 is a molecule


@dataclass(frozen=True)
class Structure:
    """One geometry of a closed-shell molecule.

    name: unique in its set. atomic_numbers (n_atoms,); positions (n_atoms, 3) bohr; charge: net. parent: name of the
    molecule that this is a frame or an ion of, itself by default. frame: 0 for the source's geometry, k > 0 for the
    k-th snapshot. gdb_index: QM9 index, -1 if not from QM9. smiles: as the source gave it, or empty.

    Raises MoleculeError for what no closed-shell calculation can start from.
    """

    name: str
    atomic_numbers: NDArray[np.int64]
    positions: Array
    charge: int = 0
    parent: str = ""
    frame: int = 0
    gdb_index: int = -1
    smiles: str = ""

    def __post_init__(self) -> None:
        n = len(self.atomic_numbers)
        if n == 0:
            raise MoleculeError(f"{self.name}: no atoms")
        if n > MOST_ATOMS:
            raise MoleculeError(f"{self.name}: {n} atoms, more than can be labelled ({MOST_ATOMS})")
        if not ((self.atomic_numbers > 0) & (self.atomic_numbers < len(radii.COVALENT))).all():
            raise MoleculeError(f"{self.name}: atomic numbers that no element has, or none that PySCF has a radius of")
        if self.positions.shape != (n, 3):
            raise MoleculeError(f"{self.name}: positions {self.positions.shape} for {n} atoms")
        if not np.isfinite(self.positions).all():
            raise MoleculeError(f"{self.name}: positions are NaN or infinite")
        if np.abs(self.positions).max() > FARTHEST:
            raise MoleculeError(f"{self.name}: atoms farther than {FARTHEST:g} bohr away; is the unit right?")
        if self.n_electrons % 2 or self.n_electrons <= 0:
            raise MoleculeError(
                f"{self.name}: {self.n_electrons} electrons at charge {self.charge}; labels are of closed shells, "
                "give it an even number by its charge"
            )
        if n > 1 and (closest := self._closest()) < CLOSEST:
            raise MoleculeError(f"{self.name}: two atoms at {closest:.2f} bohr; is the unit of the positions right?")
        if not self.parent:
            object.__setattr__(self, "parent", self.name)

    def _closest(self) -> float:
        return float(pdist(self.positions).min())

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.atomic_numbers)

    @property
    def n_electrons(self) -> int:
        """Number of electrons, those of cores included."""
        return int(self.atomic_numbers.sum()) - self.charge

    def moved(self, positions: Array, **changes: object) -> Structure:
        """The same molecule at other positions (n_atoms, 3), bohr; changes: other fields."""
        return dataclasses.replace(self, positions=positions, **changes)  # type: ignore[arg-type]

    def molecule(self, basis: str, max_memory: float = 4000.0) -> gto.Mole:
        """As a PySCF `Mole`, silent; max_memory in MB."""
        atoms = [(int(z), x) for z, x in zip(self.atomic_numbers, self.positions, strict=True)]
        return gto.M(atom=atoms, unit="Bohr", charge=self.charge, basis=basis, verbose=0, max_memory=max_memory)


@dataclass(frozen=True)
class Seed:
    """One molecule as a source names it: by its SMILES, to be embedded, or by a geometry. Exactly one of them.

    name: unique in its set. charge: net charge; of a SMILES, that of its atoms.
    """

    name: str
    smiles: str = ""
    structure: Structure | None = None

    def __post_init__(self) -> None:
        if bool(self.smiles) == (self.structure is not None):
            raise MoleculeError(f"{self.name}: give either a SMILES or a geometry")


@dataclass(frozen=True)
class LabelRow:
    """One labelled structure, a row of a label file.

    fock: lower triangle (nao (nao+1)/2,), `pyscf.lib.pack_tril`, hartree, PySCF AO order. energy: hartree, nan where
    the source has none. gradient_norm: norm of the orbital gradient 2 C_vir^T F C_occ that it was made at, hartree, nan
    where unknown. cycles_minao: SCF cycles from minao at PySCF's defaults, -1 where not run. seconds: wall time of the
    label.
    """

    structure: Structure
    fock: NDArray[np.float32]
    energy: float
    gradient_norm: float
    cycles_minao: int = -1
    seconds: float = 0.0

    def __post_init__(self) -> None:
        nao = int((2 * len(self.fock)) ** 0.5)
        if self.fock.ndim != 1 or nao * (nao + 1) // 2 != len(self.fock):
            raise MoleculeError(f"{self.structure.name}: {self.fock.shape} is not the shape of a packed lower triangle")
        if not np.isfinite(self.fock).all():
            raise MoleculeError(f"{self.structure.name}: the Fock matrix is NaN or infinite")
