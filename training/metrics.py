"""Errors of a predicted Fock matrix against its label, per molecule, and maps of them by element and shell.

The published metrics are those of QH9 (arXiv 2306.09549) and TraceGrad (arXiv 2405.05722): MAE of the matrix and of its
atom and pair blocks, of the occupied orbital energies, and the cosine of the orbitals. A constant potential, dF = mu S,
moves every orbital energy by mu and changes neither an orbital nor the density, so what it can change is given again
with the least-squares mu S taken out (`..._shifted`). NumPy only; hartree and PySCF's AO order throughout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_tracegrad.density import Orbitals, diagonalise
from pyscf_tracegrad.orbitals import shells_of_atom

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class FockErrors:
    """Errors of one molecule, in hartree where nothing else is said; dF = F - F_label.

    mae: mean |dF| over the whole matrix. mae_diagonal, mae_off_diagonal: over all elements of the atom blocks, and of
    the blocks of ordered pairs of atoms, nan for a single atom. max_error: largest |dF|.
    eps: mean |d eps| over the occupied orbitals, in order of energy. psi (1): mean |cosine| of the AO coefficients of
    occupied orbitals of the same place, without overlap, as published; blames degenerate or reordered orbitals that
    leave the density as it is. homo_error, lumo_error, gap_error: absolute, of orbital energies and their difference.
    ov (1): see `occupied_virtual_error`. occupied_loss (1): 1 - ||C_occ^T S C_occ'||_F^2 / n_occ, share of the occupied
    space that is lost. density_error (1): mean |dD| of D = 2 C_occ C_occ^T.
    shift: mu of the mu S that is closest to dF in the Frobenius norm. ..._shifted: the same metrics of dF - mu S; they
    may be larger where dF has no constant part, since mu minimises none of them. Those without such a twin (psi,
    gap_error, ov, occupied_loss, density_error) do not depend on mu.
    """

    mae: float
    mae_diagonal: float
    mae_off_diagonal: float
    max_error: float
    eps: float
    psi: float
    homo_error: float
    lumo_error: float
    gap_error: float
    ov: float
    occupied_loss: float
    density_error: float
    shift: float
    mae_shifted: float
    mae_diagonal_shifted: float
    mae_off_diagonal_shifted: float
    max_error_shifted: float
    eps_shifted: float
    homo_error_shifted: float
    lumo_error_shifted: float


def atoms_of_aos(mol: gto.Mole) -> Integers:
    """Atom (nao,) that each AO of a molecule stands at."""
    first, last = np.asarray(mol.aoslice_by_atom())[:, 2:].T
    return np.repeat(np.arange(mol.natm), last - first)


def fock_errors(fock: Array, label: Array, overlap: Array, n_occupied: int, atom_of_ao: Integers) -> FockErrors:
    """All errors of a Fock matrix of a closed shell with `n_occupied` doubly occupied orbitals.

    fock, label, overlap (nao, nao): one AO order, the first two in hartree; atom_of_ao (nao,): see `atoms_of_aos`.
    Orbitals are those of the generalised eigenproblem with the same overlap. Raises ValueError for shapes that do not
    fit, or where no orbital is occupied or none is empty.
    """
    n = len(atom_of_ao)
    if not fock.shape == label.shape == overlap.shape == (n, n):
        raise ValueError(
            f"Fock matrix {fock.shape}, label {label.shape} and overlap {overlap.shape} must all be ({n}, {n}), "
            "the AOs of one molecule"
        )
    error = fock - label
    shift = float(np.vdot(overlap, error) / np.vdot(overlap, overlap))
    found, true = diagonalise(fock, overlap), diagonalise(label, overlap)
    _check_occupied(n_occupied, len(true.energies))
    energies = found.energies - true.energies
    mae, mae_diagonal, mae_off_diagonal, largest = _element_errors(error, atom_of_ao)
    shifted = _element_errors(error - shift * overlap, atom_of_ao)
    homo, lumo = float(energies[n_occupied - 1]), float(energies[n_occupied])
    occupied, wanted = found.coefficients[:, :n_occupied], true.coefficients[:, :n_occupied]
    kept = float(np.linalg.norm(wanted.T @ overlap @ occupied) ** 2) / n_occupied
    return FockErrors(
        mae=mae,
        mae_diagonal=mae_diagonal,
        mae_off_diagonal=mae_off_diagonal,
        max_error=largest,
        eps=float(np.abs(energies[:n_occupied]).mean()),
        psi=_cosine(occupied, wanted),
        homo_error=abs(homo),
        lumo_error=abs(lumo),
        gap_error=abs(lumo - homo),
        ov=_ov(error, true, n_occupied),
        occupied_loss=max(0.0, 1.0 - kept),
        density_error=2.0 * float(np.abs(occupied @ occupied.T - wanted @ wanted.T).mean()),
        shift=shift,
        mae_shifted=shifted[0],
        mae_diagonal_shifted=shifted[1],
        mae_off_diagonal_shifted=shifted[2],
        max_error_shifted=shifted[3],
        eps_shifted=float(np.abs(energies[:n_occupied] - shift).mean()),
        homo_error_shifted=abs(homo - shift),
        lumo_error_shifted=abs(lumo - shift),
    )


def occupied_virtual_error(fock: Array, label: Array, overlap: Array, n_occupied: int) -> float:
    """rms of R_ia = (C_occ^T (F - F_label) C_vir)_ia / (e_a - e_i) in the label's orbitals: first-order density error.

    fock, label (nao, nao): hartree. Raises ValueError where no orbital is occupied or none is empty.
    """
    orbitals = diagonalise(label, overlap)
    _check_occupied(n_occupied, len(orbitals.energies))
    return _ov(fock - label, orbitals, n_occupied)


def _check_occupied(n_occupied: int, n_orbitals: int) -> None:
    if not 0 < n_occupied < n_orbitals:
        raise ValueError(f"errors of orbitals need occupied and empty ones, not {n_occupied} of {n_orbitals} occupied")


def _ov(error: Array, orbitals: Orbitals, n_occupied: int) -> float:
    energies, c = orbitals
    coupling = c[:, :n_occupied].T @ error @ c[:, n_occupied:]
    r = coupling / (energies[None, n_occupied:] - energies[:n_occupied, None])
    return float(np.sqrt(np.mean(r**2)))


def _element_errors(error: Array, atom_of_ao: Integers) -> tuple[float, float, float, float]:
    """Mean |dF| of all elements, of those of atom blocks and of pair blocks, and the largest."""
    sizes = np.abs(error)
    on_site = atom_of_ao[:, None] == atom_of_ao[None, :]
    pairs = float(sizes[~on_site].mean()) if not on_site.all() else float("nan")
    return float(sizes.mean()), float(sizes[on_site].mean()), pairs, float(sizes.max())


def _cosine(first: Array, second: Array) -> float:
    """Mean |cosine| of the columns of two matrices."""
    products = np.einsum("pi,pi->i", first, second)
    return float(np.mean(np.abs(products) / (np.linalg.norm(first, axis=0) * np.linalg.norm(second, axis=0))))


class ElementShell(NamedTuple):
    """A shell of an element: the `place`-th of its degree, from 0, in the order of the basis. Sorts by element."""

    number: int
    degree: int
    place: int

    @property
    def element(self) -> str:
        """Symbol of the element."""
        return str(gto.mole._std_symbol(self.number))

    @property
    def name(self) -> str:
        """Name of the shell: 1s 2s 3s 2p 3p 3d in def2-SVP up to F."""
        return f"{self.degree + 1 + self.place}{'spdfghi'[self.degree]}"


@dataclass(frozen=True)
class BlockErrors:
    """Sums of |dF| (hartree) and counts of matrix elements by element and shell; `+` accumulates over molecules.

    shells: the n rows and columns, sorted. site_sums, site_counts (n, n): atom blocks, so zero between two elements.
    pair_sums, pair_counts (n, n): blocks of ordered pairs of atoms. The MAE of an entry is sum over count: the mean
    over matrix elements of all molecules, not a mean of molecules' means.
    """

    shells: tuple[ElementShell, ...]
    site_sums: Array
    site_counts: Array
    pair_sums: Array
    pair_counts: Array

    def __post_init__(self) -> None:
        n = len(self.shells)
        if list(self.shells) != sorted(set(self.shells)):
            raise ValueError("the shells of a map must be unique and sorted")
        if any(a.shape != (n, n) for a in (self.site_sums, self.site_counts, self.pair_sums, self.pair_counts)):
            raise ValueError(f"sums and counts of {n} shells must be ({n}, {n})")

    def __add__(self, other: BlockErrors) -> BlockErrors:
        shells = tuple(sorted({*self.shells, *other.shells}))
        total = [np.zeros((len(shells), len(shells))) for _ in range(4)]
        for part in (self, other):
            where = [shells.index(s) for s in part.shells]
            for into, values in zip(total, part._arrays(), strict=True):
                into[np.ix_(where, where)] += values
        return BlockErrors(shells, *total)

    def _arrays(self) -> tuple[Array, Array, Array, Array]:
        return self.site_sums, self.site_counts, self.pair_sums, self.pair_counts

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols of the elements, by atomic number: rows and columns of the maps by element."""
        return tuple(dict.fromkeys(s.element for s in self.shells))

    @property
    def shell_names(self) -> tuple[str, ...]:
        """Names of shells, s before p before d: rows and columns of the maps by shell."""
        return tuple(dict.fromkeys(s.name for s in sorted(self.shells, key=lambda s: (s.degree, s.place))))

    def site_mae(self) -> Array:
        """MAE (n, n) of the atom blocks by element and shell, hartree, nan where there is no such element."""
        return _ratio(self.site_sums, self.site_counts)

    def pair_mae(self) -> Array:
        """MAE (n, n) of the pair blocks by element and shell, hartree, nan where there is no such pair."""
        return _ratio(self.pair_sums, self.pair_counts)

    def site_mae_by_element(self) -> Array:
        """MAE (n_elements,) of the atom blocks of each element."""
        groups = [self.elements.index(s.element) for s in self.shells]
        return np.diagonal(_grouped(self.site_sums, self.site_counts, groups)).copy()

    def pair_mae_by_elements(self) -> Array:
        """MAE (n_elements, n_elements) of the pair blocks of each pair of elements."""
        return _grouped(self.pair_sums, self.pair_counts, [self.elements.index(s.element) for s in self.shells])

    def site_mae_by_shells(self) -> Array:
        """MAE (n_names, n_names) of the atom blocks by names of shells, all elements together."""
        return _grouped(self.site_sums, self.site_counts, [self.shell_names.index(s.name) for s in self.shells])

    def pair_mae_by_shells(self) -> Array:
        """MAE (n_names, n_names) of the pair blocks by names of shells, all elements together."""
        return _grouped(self.pair_sums, self.pair_counts, [self.shell_names.index(s.name) for s in self.shells])


def block_errors(fock: Array, label: Array, mol: gto.Mole) -> BlockErrors:
    """|dF| of one molecule by element and shell, atom blocks and pair blocks apart; fock, label (nao, nao) hartree.

    Raises ValueError for matrices that are not of the molecule's AOs.
    """
    if fock.shape != label.shape or fock.shape != (mol.nao, mol.nao):
        raise ValueError(
            f"Fock matrix {fock.shape} and label {label.shape} must be ({mol.nao}, {mol.nao}), the AOs of the molecule"
        )
    of_ao = _shells_of_aos(mol)
    shells = tuple(sorted(set(of_ao)))
    places, atoms = np.array([shells.index(s) for s in of_ao]), atoms_of_aos(mol)
    cells = places[:, None] * len(shells) + places[None, :]
    on_site = atoms[:, None] == atoms[None, :]
    sizes = np.abs(fock - label)
    found: list[Array] = []
    for chosen in (on_site, ~on_site):
        for weights in (sizes[chosen], np.ones(int(chosen.sum()))):
            flat: Array = np.bincount(cells[chosen], weights, minlength=len(shells) ** 2).astype(np.float64)
            found.append(flat.reshape(len(shells), len(shells)))
    return BlockErrors(shells, *found)


def _shells_of_aos(mol: gto.Mole) -> list[ElementShell]:
    """The shell that each AO belongs to."""
    found = [ElementShell(0, 0, 0)] * int(mol.nao)
    for atom in range(mol.natm):
        number, seen = int(mol.atom_charge(atom)), [0] * 10
        for shell, first in shells_of_atom(mol, atom):
            label = ElementShell(number, shell.degree, seen[shell.degree])
            seen[shell.degree] += 1
            found[first : first + 2 * shell.degree + 1] = [label] * (2 * shell.degree + 1)
    return found


def _ratio(sums: Array, counts: Array) -> Array:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _grouped(sums: Array, counts: Array, groups: Sequence[int]) -> Array:
    """Mean by groups of rows and columns: (n_groups, n_groups)."""
    n = max(groups, default=-1) + 1
    member = np.zeros((n, len(groups)))
    member[list(groups), range(len(groups))] = 1.0
    return _ratio(member @ sums @ member.T, member @ counts @ member.T)
