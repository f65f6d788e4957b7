"""Shells of an element, from the basis data, and their places in a padded block.

A block is the sub-matrix of two atoms, padded to the widest element: in def2-SVP to the 3s 2p 1d of C N O F, 14 x 14.
The k-th shell of degree l of an element takes the place of the k-th padded shell of degree l; H (2s 1p) so has rows 0,
1, 3, 4, 5. Within a shell the network's order is m = -l..l, which is PySCF's for every l but p: p is (x, y, z) there
and (y, z, x) here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pyscf import gto

# Position in PySCF's shell of the network's components m = -l..l.
_P_ORDER = (1, 2, 0)


@dataclass(frozen=True)
class Shell:
    """A contracted shell: degree l, exponents (bohr^-2) and normalised contraction coefficients, steepest first."""

    degree: int
    exponents: tuple[float, ...]
    coefficients: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.exponents) != len(self.coefficients) or not self.exponents:
            raise ValueError(f"a shell needs one coefficient per exponent: {self}")

    def same_as(self, other: Shell) -> bool:
        """Whether both are the same function to 1e-6, so that their AOs are interchangeable."""
        return (
            self.degree == other.degree
            and len(self.exponents) == len(other.exponents)
            and np.allclose(self.exponents, other.exponents, rtol=1e-6, atol=0)
            and np.allclose(self.coefficients, other.coefficients, rtol=1e-6, atol=1e-8)
        )


def component_order(degree: int) -> tuple[int, ...]:
    """For the components m = -l..l of the network: their positions within PySCF's shell of that degree."""
    return _P_ORDER if degree == 1 else tuple(range(2 * degree + 1))


def shells_of_atom(mol: gto.Mole, atom: int) -> list[tuple[Shell, int]]:
    """Shells of one atom with the index of their first AO, in the order of `mol._bas`.

    A `_bas` entry with several contractions holds several shells, with consecutive AOs.
    """
    starts = mol.ao_loc_nr()
    found = []
    for i in range(mol.nbas):
        if mol.bas_atom(i) != atom:
            continue
        degree = int(mol.bas_angular(i))
        exponents = np.asarray(mol.bas_exp(i))
        coefficients = np.asarray(mol._libcint_ctr_coeff(i))
        order = np.argsort(-exponents, kind="stable")
        for k in range(coefficients.shape[1]):
            used = [j for j in order if coefficients[j, k] != 0.0]
            shell = Shell(
                degree,
                tuple(float(exponents[j]) for j in used),
                tuple(float(coefficients[j, k]) for j in used),
            )
            found.append((shell, int(starts[i]) + k * (2 * degree + 1)))
    return found


@dataclass(frozen=True)
class ShellTable:
    """The shells of every element a model knows, in network order; stored in its checkpoint.

    elements: atomic numbers, ascending. shells: per element, sorted by degree, steepest first.
    """

    elements: tuple[int, ...]
    shells: tuple[tuple[Shell, ...], ...]

    def __post_init__(self) -> None:
        if len(self.elements) != len(self.shells) or list(self.elements) != sorted(set(self.elements)):
            raise ValueError("a shell table needs one shell list per element, elements ascending and unique")

    @classmethod
    def from_basis(cls, basis: str, elements: Iterable[int]) -> ShellTable:
        """Table of a named PySCF basis, e.g. `'def2-svp'`, for some atomic numbers."""
        numbers = tuple(sorted({int(z) for z in elements}))
        shells = []
        for z in numbers:
            atom = gto.M(atom=[(z, (0.0, 0.0, 0.0))], basis=basis, spin=z % 2, verbose=0)
            found = [shell for shell, _ in shells_of_atom(atom, 0)]
            shells.append(tuple(sorted(found, key=lambda s: (s.degree, -s.exponents[0]))))
        return cls(numbers, tuple(shells))

    @cached_property
    def degrees(self) -> tuple[int, ...]:
        """Degrees of the padded shells, ascending: (0, 0, 0, 1, 1, 2) for def2-SVP up to F."""
        highest = max(s.degree for shells in self.shells for s in shells)
        counts = [max(sum(s.degree == l for s in shells) for shells in self.shells) for l in range(highest + 1)]
        return tuple(l for l, count in enumerate(counts) for _ in range(count))

    @property
    def width(self) -> int:
        """Rows of a padded block: 14 for def2-SVP up to F."""
        return sum(2 * l + 1 for l in self.degrees)

    def slots(self, element: int) -> list[int]:
        """First padded row of every shell of the element with atomic number `element`, in table order."""
        starts = np.cumsum([0] + [2 * l + 1 for l in self.degrees])
        used: dict[int, int] = {}
        rows = []
        for shell in self.shells[self.elements.index(element)]:
            place = self.degrees.index(shell.degree) + used.get(shell.degree, 0)
            used[shell.degree] = used.get(shell.degree, 0) + 1
            rows.append(int(starts[place]))
        return rows

    def to_list(self) -> list[Any]:
        """Plain nested lists, for a checkpoint; `from_list` is the inverse."""
        return [
            [z, [[s.degree, list(s.exponents), list(s.coefficients)] for s in shells]]
            for z, shells in zip(self.elements, self.shells, strict=True)
        ]

    @classmethod
    def from_list(cls, data: list[Any]) -> ShellTable:
        """Inverse of `to_list`."""
        elements = tuple(int(z) for z, _ in data)
        shells = tuple(tuple(Shell(int(l), tuple(e), tuple(c)) for l, e, c in entries) for _, entries in data)
        return cls(elements, shells)
