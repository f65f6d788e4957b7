"""Fock matrix -> orbitals -> density: Aufbau and Fermi occupations, tagged densities."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf import lib

Array = NDArray[np.float64]

# Overlap eigenvalues below this are linear dependencies (PySCF's scf.addons.remove_linear_dep uses the same).
_LINDEP = 1e-8


class Orbitals(NamedTuple):
    """Orbital energies (nmo,) in hartree, ascending, and coefficients (nao, nmo) with C^T S C = 1."""

    energies: Array
    coefficients: Array


def diagonalise(fock: Array, overlap: Array) -> Orbitals:
    """Solve F C = S C e; a near-dependent basis is orthogonalised canonically (nmo < nao then)."""
    # the Cholesky factor of a near-dependent basis may exist and still be worthless, so look at the eigenvalues of S
    if scipy.linalg.eigvalsh(overlap, subset_by_index=[0, 0], check_finite=False)[0] > _LINDEP:
        return Orbitals(*scipy.linalg.eigh(fock, overlap, driver="gvd", check_finite=False))
    values, vectors = np.linalg.eigh(overlap)
    keep = values > _LINDEP
    half = vectors[:, keep] / np.sqrt(values[keep])
    energies, rotated = np.linalg.eigh(half.T @ fock @ half)
    return Orbitals(energies, half @ rotated)


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
