"""Fock matrix -> orbitals -> density: Aufbau and Fermi occupations, tagged densities, and back to their orbitals."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf import lib

Array = NDArray[np.float64]

# Overlap eigenvalues below this are linear dependencies (PySCF's scf.addons.remove_linear_dep uses the same).
_LINDEP = 1e-8
_OCC_FLOOR = 1e-10


class Orbitals(NamedTuple):
    """Orbital energies (nmo,) in hartree, ascending, and coefficients (nao, nmo) with C^T S C = 1."""

    energies: Array
    coefficients: Array


class Factor(NamedTuple):
    """Occupied factor of a density: `dm = sum_i occ_i c_i c_i^T`; `orbitals` (nao, n), `occupations` (n,)."""

    orbitals: Array
    occupations: Array


def diagonalise(fock: Array, overlap: Array) -> Orbitals:
    """Solve F C = S C e; a near-dependent basis is orthogonalised canonically (nmo < nao then)."""
    # the Cholesky factor of a near-dependent basis may exist and still be worthless, so look at the eigenvalues of S
    if scipy.linalg.eigvalsh(overlap, subset_by_index=[0, 0], check_finite=False)[0] > _LINDEP:
        return Orbitals(*scipy.linalg.eigh(fock, overlap, driver="gvd", check_finite=False))
    half = canonical_orthogonalisation(overlap)
    energies, rotated = np.linalg.eigh(half.T @ fock @ half)
    return Orbitals(energies, half @ rotated)


def canonical_orthogonalisation(overlap: Array, threshold: float = _LINDEP) -> Array:
    """X (nao, nmo) with X^T S X = 1, without the directions whose eigenvalue of S is below the threshold."""
    values, vectors = np.linalg.eigh(overlap)
    keep = values > threshold
    orthogonal: Array = vectors[:, keep] / np.sqrt(values[keep])
    return orthogonal


def aufbau(n_orbitals: int, n_electrons: int) -> Array:
    """Closed-shell occupations (n_orbitals,): 2 for the lowest n_electrons/2.

    Raises ValueError for an odd number of electrons, or for more than fit.
    """
    if n_electrons % 2 or not 0 <= n_electrons <= 2 * n_orbitals:
        raise ValueError(f"{n_electrons} electrons do not fill {n_orbitals} orbitals in pairs")
    occupations = np.zeros(n_orbitals)
    occupations[: n_electrons // 2] = 2.0
    return occupations


def fermi(energies: Array, n_electrons: int, width: float) -> Array:
    """Fermi occupations 2/(1 + exp((e - mu)/width)) that sum to `n_electrons`; `width` = kT in hartree.

    Unlike Aufbau they do not pick one of two degenerate frontier orbitals, so a symmetric molecule stays symmetric.
    Raises ValueError for more electrons than fit, or fewer than none.
    """
    if not 0 <= n_electrons <= 2 * len(energies):
        raise ValueError(f"{n_electrons} electrons do not fill {len(energies)} orbitals")
    if n_electrons == 0:
        return np.zeros_like(energies)
    low, high = energies[0] - 50 * width, energies[-1] + 50 * width
    for _ in range(200):
        mu = 0.5 * (low + high)
        occupations: Array = 1.0 - np.tanh((energies - mu) / (2 * width))
        if occupations.sum() > n_electrons:
            high = mu
        else:
            low = mu
        if high - low < 1e-13:
            break
    scaled: Array = occupations * (n_electrons / occupations.sum())
    return scaled


def make_density(orbitals: Orbitals, occupations: Array) -> Any:
    """Density (nao, nao) = C occ C^T, tagged with `mo_coeff` and `mo_occ` as PySCF's own densities are."""
    occupied = orbitals.coefficients[:, occupations > 0]
    dm = (occupied * occupations[occupations > 0]) @ occupied.T
    return lib.tag_array(dm, mo_coeff=orbitals.coefficients, mo_occ=occupations)


def fermi_density(fock: Array, overlap: Array, nelec: tuple[int, int], width: float) -> Any:
    """Density of a Fock matrix with Fermi occupations: (nao, nao), or (2, nao, nao) with `nelec` for each spin."""
    if fock.ndim == 2:
        orbitals = diagonalise(fock, overlap)
        return make_density(orbitals, fermi(orbitals.energies, sum(nelec), width))
    both = [diagonalise(f, overlap) for f in fock]
    occupations = [0.5 * fermi(o.energies, 2 * n, width) for o, n in zip(both, nelec, strict=True)]
    dms = [make_density(o, occ) for o, occ in zip(both, occupations, strict=True)]
    return lib.tag_array(np.stack(dms), mo_coeff=np.stack([o.coefficients for o in both]), mo_occ=np.stack(occupations))


def occupied_factor(dm: Any, overlap: Array) -> Factor:
    """Orbitals and occupations of a density matrix (nao, nao), taken from its tags where it has them.

    An untagged one is diagonalised as S^1/2 D S^1/2, whose eigenvalues are its natural occupations.
    """
    mo_coeff, mo_occ = getattr(dm, "mo_coeff", None), getattr(dm, "mo_occ", None)
    if mo_coeff is not None and mo_occ is not None:
        return _occupied(mo_coeff, mo_occ)
    values, vectors = np.linalg.eigh(overlap)
    keep = values > 1e-10
    root = vectors[:, keep] * np.sqrt(values[keep])
    occupations, natural = np.linalg.eigh(root.T @ np.asarray(dm) @ root)
    occupied = np.abs(occupations) > _OCC_FLOOR
    inverse_root = vectors[:, keep] / np.sqrt(values[keep])
    return Factor(inverse_root @ natural[:, occupied], occupations[occupied])


def _occupied(mo_coeff: Array, mo_occ: Array) -> Factor:
    occupied = np.abs(mo_occ) > _OCC_FLOOR
    return Factor(np.ascontiguousarray(mo_coeff[:, occupied]), np.asarray(mo_occ[occupied], dtype=float))


def spin_factors(dm: Any, overlap: Array) -> tuple[Factor, ...]:
    """One factor for a density (nao, nao), two for spin densities (2, nao, nao), from their tags where they fit."""
    if np.ndim(dm) == 2:
        return (occupied_factor(dm, overlap),)
    mo_coeff, mo_occ = getattr(dm, "mo_coeff", None), getattr(dm, "mo_occ", None)
    if mo_coeff is not None and mo_occ is not None and np.ndim(mo_occ[0]) == 1:
        return tuple(_occupied(c, occ) for c, occ in zip(mo_coeff, mo_occ, strict=True))
    return tuple(occupied_factor(np.asarray(d), overlap) for d in dm)
