"""Spin patterns: a first density from spins of atoms, or from fragments with charges and spins of their own.

PySCF's minao gives either spin half of each atom, so an antiferromagnetic or broken-symmetry state has to be made by
hand. Here the open shell of each atom takes as many unpaired electrons as it is told, up or down,

    n_a = (N + m) / 2 g,  n_b = (N - m) / 2 g        of each of the g AOs of the shell,

N its electrons in minao (moved as far as m needs), m the spin 2S; in minao's own atomic orbitals, projected as minao's.
Fragments are converged by cheap cycles, each for itself, and put together.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.scf import hf

from pyscf_tracegrad.errors import BadInput

Array = NDArray[np.float64]


class Fragment(NamedTuple):
    """A part of a molecule. atoms: 0-based indices. charge: net. spin: 2S, negative for more beta than alpha ones."""

    atoms: tuple[int, ...]
    charge: int
    spin: int


@dataclass(frozen=True)
class SpinPattern:
    """What a user says of spins: unpaired electrons of atoms, 0-based index -> 2S, or fragments; one of both."""

    atoms: tuple[tuple[int, int], ...] = ()
    fragments: tuple[Fragment, ...] = ()

    @classmethod
    def of(cls, spins: Any, fragments: Any) -> SpinPattern | None:
        """From the options `spins` and `fragments`; None where neither is given. Raises ValueError for their form."""
        if spins is not None and fragments is not None:
            raise ValueError("give spins= or fragments=, not both")
        if spins is not None:
            if not isinstance(spins, Mapping) or not all(map(_is_whole, [*spins, *spins.values()])):
                raise ValueError(f"spins takes a dictionary of atom indices and numbers 2S, not {spins!r}")
            return cls(atoms=tuple((int(atom), int(spin)) for atom, spin in spins.items()))
        if fragments is not None:
            return cls(fragments=tuple(_fragment(each) for each in fragments))
        return None

    def density(self, mol: gto.Mole, converge: Callable[[gto.Mole], Any]) -> Array:
        """First density (2, nao, nao) of a molecule. converge: density of either spin of a fragment's molecule.

        Raises BadInput where the pattern does not fit the molecule.
        """
        if self.fragments:
            return fragment_density(mol, self.fragments, converge)
        return atomic_spin_density(mol, dict(self.atoms))


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _fragment(value: Any) -> Fragment:
    try:
        atoms, charge, spin = (
            (value["atoms"], value["charge"], value["spin"]) if isinstance(value, Mapping) else tuple(value)
        )
        return Fragment(tuple(int(atom) for atom in atoms), int(charge), int(spin))
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"a fragment is (atoms, charge, spin 2S), not {value!r}") from None


def check_total(mol: gto.Mole, total: int, what: str) -> None:
    """Refuse spins that do not add up to that of the molecule. Raises BadInput."""
    if total != mol.spin:
        raise BadInput(f"the spins in {what} add up to {total}, but mol.spin is {mol.spin}")


def atomic_spin_density(mol: gto.Mole, spins: Mapping[int, int]) -> Array:
    """Minao's density (2, nao, nao), PySCF AO order, with unpaired electrons on atoms.

    spins: 0-based index of an atom -> its 2S, signed; atoms that are not named have none. Raises BadInput for spins
    that do not add up to `mol.spin`, or that an atom's open shell cannot hold.
    """
    for atom in spins:
        if not 0 <= atom < mol.natm or mol.atom_charge(atom) == 0:
            raise BadInput(f"spins: there is no atom {atom} with electrons; indices are 0 to {mol.natm - 1}")
    check_total(mol, sum(spins.values()), "spins=")
    minao: Any = hf.init_guess_by_minao(mol)
    counts = _minao_orbitals(mol)
    if getattr(minao, "mo_coeff", None) is None or sum(counts) != len(minao.mo_occ):
        raise BadInput("spins: PySCF's minao has no atomic orbitals for this molecule")
    orbitals, occupations = minao.mo_coeff, minao.mo_occ
    both = np.stack([0.5 * occupations, 0.5 * occupations])
    first = 0
    for atom, count in enumerate(counts):
        if spins.get(atom, 0):
            rows = slice(first, first + count)
            both[:, rows] = _polarised(occupations[rows], spins[atom], f"atom {atom} ({mol.atom_symbol(atom)})")
        first += count
    return np.stack([(orbitals * occupied) @ orbitals.T for occupied in both])


def _minao_orbitals(mol: gto.Mole) -> list[int]:
    """Number of atomic orbitals that minao has for each atom; none for a ghost."""
    known: dict[str, int] = {}
    counts = []
    for atom in range(mol.natm):
        symbol = mol.atom_symbol(atom)
        if symbol not in known:
            known[symbol] = 0 if gto.is_ghost_atom(symbol) else len(hf.init_guess_by_minao(_alone(mol, atom)).mo_occ)
        counts.append(known[symbol])
    return counts


def _alone(mol: gto.Mole, atom: int) -> gto.Mole:
    """The molecule of one of the atoms, with its basis and core potential."""
    one = gto.Mole(verbose=0, unit="Bohr", cart=mol.cart, spin=None)
    symbol = mol.atom_symbol(atom)
    one.atom = [(symbol, mol.atom_coord(atom))]
    one.basis = {symbol: mol._basis[symbol]}
    one.ecp = {symbol: mol._ecp[symbol]} if symbol in mol._ecp else {}
    return one.build(dump_input=False, parse_arg=False)


def _polarised(occupations: Array, spin: int, name: str) -> Array:
    """Occupations (2, n) of an atom's orbitals with `spin` unpaired electrons, the highest open shell first."""
    both = np.stack([0.5 * occupations, 0.5 * occupations])
    runs = _shells(occupations)
    shells = sorted((run for run in runs if 0.0 < occupations[run[0]] < 2.0), key=len, reverse=True)
    if occupations[0] == 2.0:
        shells.append(runs[0][-1:])  # the outermost full s shell, which gives one away at last: 3d5 4s1 of chromium
    left = abs(spin)
    for shell in shells:
        unpaired = min(left, len(shell))
        electrons = float(np.clip(occupations[shell].sum(), unpaired, 2 * len(shell) - unpaired))
        both[0, shell] = 0.5 * (electrons + unpaired) / len(shell)
        both[1, shell] = 0.5 * (electrons - unpaired) / len(shell)
        left -= unpaired
    if left:
        room = sum(map(len, shells))
        raise BadInput(f"spins: the open shells of {name} hold {room} unpaired electrons, not {abs(spin)}")
    return both if spin > 0 else both[::-1]


def _shells(occupations: Array) -> list[list[int]]:
    """Runs of equal occupations: an open shell stands between full and empty ones."""
    cuts = np.flatnonzero(np.diff(occupations)) + 1
    return [part.tolist() for part in np.split(np.arange(len(occupations)), cuts)]


def fragment_density(mol: gto.Mole, fragments: Sequence[Fragment], converge: Callable[[gto.Mole], Any]) -> Array:
    """Densities of fragments (2, nao, nao) side by side, PySCF AO order.

    converge: density (2, n, n) of a fragment's molecule, whose spin is not negative. Raises BadInput where the
    fragments do not make up the molecule.
    """
    atoms = sorted(atom for fragment in fragments for atom in fragment.atoms)
    if atoms != list(range(mol.natm)):
        raise BadInput(f"fragments must name each of the {mol.natm} atoms once, by 0-based indices")
    charge = sum(fragment.charge for fragment in fragments)
    if charge != mol.charge:
        raise BadInput(f"the charges of fragments= add up to {charge}, but mol.charge is {mol.charge}")
    check_total(mol, sum(fragment.spin for fragment in fragments), "fragments=")
    total = np.zeros((2, mol.nao, mol.nao))
    slices = mol.aoslice_by_atom()[:, 2:]
    for fragment in fragments:
        rows = np.concatenate([np.arange(*slices[atom]) for atom in fragment.atoms])
        dm = np.asarray(converge(_part(mol, fragment)))
        total[:, rows[:, None], rows] = dm if fragment.spin >= 0 else dm[::-1]
    return total


def _part(mol: gto.Mole, fragment: Fragment) -> gto.Mole:
    """A fragment's molecule, in the basis of the whole; atoms in the order of the fragment."""
    part = gto.Mole(verbose=0, unit="Bohr", cart=mol.cart, max_memory=mol.max_memory)
    part.atom = [(mol.atom_symbol(atom), mol.atom_coord(atom)) for atom in fragment.atoms]
    symbols = {mol.atom_symbol(atom) for atom in fragment.atoms}
    part.basis = {symbol: mol._basis[symbol] for symbol in symbols}
    part.ecp = {symbol: mol._ecp[symbol] for symbol in symbols if symbol in mol._ecp}
    part.charge, part.spin = fragment.charge, abs(fragment.spin)
    try:
        return part.build(dump_input=False, parse_arg=False)
    except RuntimeError as error:  # PySCF's word on charge and spin
        raise BadInput(f"fragment of atoms {fragment.atoms}: {error}") from error
