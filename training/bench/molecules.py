"""Molecules to measure on: readers of ragged npz and label files, choices that a seed decides, no structure twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.data import elements, nist

from training.labels import LabelFile

Array = NDArray[np.float64]

COVERED = frozenset((1, 6, 7, 8, 9))
_KR = 36


@dataclass(frozen=True)
class Molecule:
    """A structure. numbers: atomic numbers; positions (n_atoms, 3) angstrom; spin: unpaired electrons."""

    name: str
    numbers: tuple[int, ...]
    positions: Array
    charge: int = 0
    spin: int = 0

    def __post_init__(self) -> None:
        if self.positions.shape != (len(self.numbers), 3):
            raise ValueError(f"{self.name}: positions {self.positions.shape} for {len(self.numbers)} atoms")

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    @property
    def covered(self) -> bool:
        """Whether it has H, C, N, O and F only."""
        return COVERED.issuperset(self.numbers)

    @property
    def closed_shell(self) -> bool:
        """Whether it is neutral without unpaired electrons."""
        return self.charge == 0 and self.spin == 0

    def mole(self, basis: str, symmetry: bool | str = False) -> gto.Mole:
        """As a PySCF `Mole`, silent; beyond Kr the def2 bases come with their core potentials."""
        atoms = list(zip(self.numbers, self.positions, strict=True))
        heavy = {z for z in self.numbers if z > _KR} if basis.startswith("def2") else set()
        ecp = {elements.ELEMENTS[z]: basis for z in heavy}
        settings = {"charge": self.charge, "spin": self.spin, "symmetry": symmetry, "verbose": 0}
        return gto.M(atom=atoms, basis=basis, ecp=ecp, **settings)

    def cation(self) -> Molecule:
        """One electron less at the same geometry, a doublet."""
        return replace(self, name=f"{self.name}+", charge=self.charge + 1, spin=1)


def named(molecules: Iterable[Molecule], patterns: Sequence[str]) -> list[Molecule]:
    """Molecules whose names match a pattern, as in a shell."""
    return [m for m in molecules if any(fnmatchcase(m.name, pattern) for pattern in patterns)]


def read_npz(path: str | Path) -> list[Molecule]:
    """Molecules of a ragged npz: atoms `offsets[k]:offsets[k+1]` of `Z` and `positions` (angstrom).

    `name`, `charge` and `uhf` (unpaired electrons) are optional: positions in the file, 0 and 0. Names that occur
    more than once get the position in the file as well.
    """
    with np.load(path) as file:
        data = {key: file[key] for key in file.files}
    offsets = data["offsets"]
    n = len(offsets) - 1
    names = [x.decode() if isinstance(x, bytes) else str(x) for x in data.get("name", np.arange(n))]
    charges, spins = data.get("charge", np.zeros(n, int)), data.get("uhf", np.zeros(n, int))
    molecules = []
    for k in range(n):
        atoms = slice(int(offsets[k]), int(offsets[k + 1]))
        name = names[k] if names.count(names[k]) == 1 else f"{names[k]}#{k}"
        numbers = tuple(int(z) for z in data["Z"][atoms])
        molecules.append(Molecule(name, numbers, data["positions"][atoms], int(charges[k]), int(spins[k])))
    return molecules


def read_labels(paths: Iterable[str | Path], split: str | None = "val") -> list[Molecule]:
    """Molecules of label files, of one split or of both (None)."""
    molecules = []
    for path in paths:
        labels = LabelFile(path)
        for k in range(len(labels)):
            if split not in {None, labels.splits[k]}:
                continue
            label = labels[k]
            numbers = tuple(int(z) for z in label.atomic_numbers)
            molecules.append(Molecule(label.name, numbers, label.positions * nist.BOHR, label.charge))
    return molecules


class Seen:
    """Structures met so far: the same atoms, and sorted interatomic distances that agree within a tolerance (angstrom).

    electrons: molecules that differ in charge or spin are different.
    """

    def __init__(self, tolerance: float, molecules: Iterable[Molecule] = (), electrons: bool = True) -> None:
        self.tolerance, self.electrons = tolerance, electrons
        self._distances: dict[tuple[int, ...], list[Array]] = {}
        for molecule in molecules:
            self.add(molecule)

    def _key(self, molecule: Molecule) -> tuple[int, ...]:
        state = (molecule.charge, molecule.spin) if self.electrons else ()
        return (*sorted(molecule.numbers), *state)

    def __contains__(self, molecule: Molecule) -> bool:
        mine = sorted_distances(molecule)
        met = self._distances.get(self._key(molecule), [])
        return any(np.abs(mine - other).max(initial=0.0) <= self.tolerance for other in met)

    def add(self, molecule: Molecule) -> None:
        """Remember one more."""
        self._distances.setdefault(self._key(molecule), []).append(sorted_distances(molecule))


def sorted_distances(molecule: Molecule) -> Array:
    """All interatomic distances, ascending, angstrom."""
    first, second = np.triu_indices(molecule.n_atoms, 1)
    return np.sort(np.linalg.norm(molecule.positions[first] - molecule.positions[second], axis=1))


def choose(
    molecules: Sequence[Molecule],
    count: int,
    wanted: Callable[[Molecule], bool],
    seed: int = 0,
    seen: Seen | None = None,
) -> list[Molecule]:
    """So many molecules that are wanted, in an order that the seed decides, none like those in `seen` (0.02 angstrom).

    What is chosen is added to `seen`.
    """
    seen = Seen(0.02) if seen is None else seen
    chosen: list[Molecule] = []
    for k in np.random.default_rng(seed).permutation(len(molecules)):
        molecule = molecules[k]
        if len(chosen) == count:
            break
        if wanted(molecule) and molecule not in seen:
            seen.add(molecule)
            chosen.append(molecule)
    return chosen
