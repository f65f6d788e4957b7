"""Which AO of a molecule stands in which slot of the padded blocks, found from `mol._bas` and not from names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_tracegrad.errors import UnsupportedBasis
from pyscf_tracegrad.orbitals.shells import ShellTable, component_order, shells_of_atom


@dataclass(frozen=True)
class AOLayout:
    """Places of a molecule's AOs in the blocks of a network.

    element_index (n_atoms,): position of each atom's element in the shell table.
    ao_slots (n_atoms, width): index in PySCF's AO order of the AO in each padded row, -1 where the element has none.
    """

    element_index: NDArray[np.int64]
    ao_slots: NDArray[np.int64]

    def __post_init__(self) -> None:
        used = np.sort(self.ao_slots[self.ao_slots >= 0])
        if self.ao_slots.shape[:1] != self.element_index.shape or not np.array_equal(used, np.arange(len(used))):
            raise ValueError("an AO layout must hold every AO exactly once, one row of slots per atom")

    @property
    def nao(self) -> int:
        """Number of AOs."""
        return int((self.ao_slots >= 0).sum())


def layout(mol: gto.Mole, table: ShellTable) -> AOLayout:
    """Match every shell of a molecule with the shell table of a model, in whatever order the basis lists them.

    Raises UnsupportedBasis where an element or a shell is not in the table, one is missing, or the AOs are Cartesian.
    """
    if mol.cart:
        raise UnsupportedBasis("Cartesian AOs (mol.cart) are not covered; use spherical ones")
    known = ", ".join(gto.mole._std_symbol(z) for z in table.elements)
    element_index = np.zeros(mol.natm, dtype=np.int64)
    ao_slots = np.full((mol.natm, table.width), -1, dtype=np.int64)
    for atom in range(mol.natm):
        number, symbol = int(mol.atom_charge(atom)), mol.atom_symbol(atom)
        if number not in table.elements:
            raise UnsupportedBasis(f"atom {atom} ({symbol}): the model knows {known} only")
        element_index[atom] = table.elements.index(number)
        _place_shells(mol, atom, table, ao_slots[atom])
    return AOLayout(element_index, ao_slots)


def _place_shells(mol: gto.Mole, atom: int, table: ShellTable, slots: NDArray[np.int64]) -> None:
    """Fill one atom's row of slots."""
    number, symbol = int(mol.atom_charge(atom)), mol.atom_symbol(atom)
    wanted = list(zip(table.shells[table.elements.index(number)], table.slots(number), strict=True))
    for shell, first_ao in shells_of_atom(mol, atom):
        match = next((pair for pair in wanted if pair[0].same_as(shell)), None)
        if match is None:
            raise UnsupportedBasis(
                f"atom {atom} ({symbol}): its basis has a shell with l = {shell.degree} and exponents "
                f"{shell.exponents} that the model's basis has not"
            )
        wanted.remove(match)
        row = match[1]
        for m, position in enumerate(component_order(shell.degree)):
            slots[row + m] = first_ao + position
    if wanted:
        raise UnsupportedBasis(
            f"atom {atom} ({symbol}): its basis lacks {len(wanted)} of the shells of the model's basis, "
            f"first the one with l = {wanted[0][0].degree} and exponents {wanted[0][0].exponents}"
        )
