"""The cheap Fock operator: density-fitted J/K and a coarse grid.

    F[D] = hcore + J_df[D] - (c_x / 2) K_df[D] + V_xc^coarse[D]

One object serves the reference Fock matrix (`reference.py`) and, later, the refinement of a guess: the three-centre
integrals are built once, and the AO values on the grid are kept as soon as that pays. Against one exact build (in-core
integrals, level-3 grid) a build costs about a fifth.

Array letters: g grid points, p AOs, i occupied orbitals, x the value and its three derivatives.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import df, dft, gto, lib
from pyscf.dft import numint
from pyscf.scf import hf
from threadpoolctl import ThreadpoolController

Array = NDArray[np.float64]

# 72 x 56 grid points a block (PySCF's kernels work on multiples of 56): 4 x 4032 x 130 AOs x 8 bytes = 17 MB, small
# enough that the allocator reuses the pages; a single array for the whole grid costs six times as much in page faults.
_BLOCK = 72 * numint.BLKSIZE
_OCC_FLOOR = 1e-10


class Factor(NamedTuple):
    """Occupied factor of a density: `dm = sum_i occ_i c_i c_i^T`; `orbitals` (nao, n), `occupations` (n,)."""

    orbitals: Array
    occupations: Array


def occupied_factor(dm: Any, overlap: Array) -> Factor:
    """Orbitals and occupations of a density matrix, taken from its tags where it has them.

    An untagged `dm` (nao, nao) is diagonalised as S^1/2 D S^1/2, whose eigenvalues are its natural occupations.
    """
    mo_coeff, mo_occ = getattr(dm, "mo_coeff", None), getattr(dm, "mo_occ", None)
    if mo_coeff is not None and mo_occ is not None:
        occupied = np.abs(mo_occ) > _OCC_FLOOR
        return Factor(np.ascontiguousarray(mo_coeff[:, occupied]), np.asarray(mo_occ[occupied], dtype=float))
    values, vectors = np.linalg.eigh(overlap)
    keep = values > 1e-10
    root = vectors[:, keep] * np.sqrt(values[keep])
    occupations, natural = np.linalg.eigh(root.T @ np.asarray(dm) @ root)
    occupied = np.abs(occupations) > _OCC_FLOOR
    inverse_root = vectors[:, keep] / np.sqrt(values[keep])
    return Factor(inverse_root @ natural[:, occupied], occupations[occupied])


class CheapFock:
    """Restricted Fock operator F[D] of one molecule, cheap to apply again and again.

    Parameters
    ----------
    mol : gto.Mole
        Built molecule; any basis, spherical or Cartesian. `mol.max_memory` (MB) bounds the three-centre integrals (on
        disk where they do not fit) and the kept AO values (evaluated anew in every build where they do not fit).
    xc : str
        Any functional that PySCF's `NumInt` evaluates, or `'hf'`. Non-local (VV10) correlation is left out.
    grid_level : int
        PySCF grid level of V_xc. Level 1 has an orientation noise of about 1e-6 hartree, level 0 of 2e-5.
    auxbasis : str or dict, optional
        Fitting basis; PySCF's default for the orbital basis if not given.
    hcore : (nao, nao) array, optional
        One-electron Hamiltonian, hartree; PySCF's for `mol` (with its ECPs) if not given.
    keep_ao_after : int
        AO values on the grid are kept from this build on. Keeping costs one allocation of the whole grid, as much as
        about six evaluations, so it pays for the many builds of a refinement and not for the two or three of a guess.

    Attributes
    ----------
    builds : int
        Number of Fock builds so far.
    setup_seconds : float
        Wall time of the integrals and the grid.
    """

    def __init__(
        self,
        mol: gto.Mole,
        xc: str = "b3lyp",
        grid_level: int = 1,
        auxbasis: Any = None,
        hcore: Array | None = None,
        keep_ao_after: int = 3,
    ) -> None:
        start = time.perf_counter()
        self.mol = mol
        self.xc = xc
        self.builds = 0
        self.keep_ao_after = keep_ao_after
        self._blas = ThreadpoolController()
        self.overlap: Array = mol.intor_symmetric("int1e_ovlp")
        self.hcore: Array = hf.get_hcore(mol) if hcore is None else hcore
        self._numint = numint.NumInt()
        self._xctype: str = self._numint._xc_type(xc)
        self._omega, self._alpha, self._hybrid = self._numint.rsh_and_hybrid_coeff(xc)
        self.with_df = df.DF(mol, auxbasis)
        self.with_df.max_memory = mol.max_memory
        self.with_df.verbose = 0
        self.with_df.build()
        if self._xctype != "HF":
            self._build_grid(grid_level)
        self.setup_seconds = time.perf_counter() - start

    def _build_grid(self, level: int) -> None:
        grids = dft.Grids(self.mol)
        grids.level, grids.verbose = level, 0
        grids.build(with_non0tab=False, sort_grids=True)  # sorted: whole blocks of AO values are negligible
        self._coords, self._weights = grids.coords, grids.weights
        self._mask = numint.make_mask(self.mol, grids.coords)
        derivative = 0 if self._xctype == "LDA" else 1
        self._eval_name = f"GTOval_{'cart' if self.mol.cart else 'sph'}_deriv{derivative}"
        self._kept: list[Array] = []

    def _blocks(self) -> Iterator[tuple[Array, Array]]:
        """AO values (x, g, p) and weights (g,) of consecutive blocks of the grid."""
        npoints = len(self._weights)
        megabytes = (1 if self._eval_name.endswith("0") else 4) * npoints * self.mol.nao * 8e-6
        free = self.mol.max_memory - lib.current_memory()[0]
        keep = self.builds >= self.keep_ao_after and megabytes < 0.5 * free
        for number, start in enumerate(range(0, npoints, _BLOCK)):
            points = slice(start, min(start + _BLOCK, npoints))
            if number < len(self._kept):
                yield self._kept[number], self._weights[points]
                continue
            rows = slice(start // numint.BLKSIZE, -(-points.stop // numint.BLKSIZE))
            ao: Array = self.mol.eval_gto(self._eval_name, self._coords[points], non0tab=self._mask[rows])
            ao = ao if ao.ndim == 3 else ao[None]
            if keep:
                self._kept.append(ao)
            yield ao, self._weights[points]

    def __call__(self, dm: Any) -> Array:
        """Fock matrix (nao, nao), hartree, PySCF AO order, of a density matrix (nao, nao) in the same order.

        A density tagged with `mo_coeff` and `mo_occ` (`lib.tag_array`) saves a diagonalisation.
        """
        # Small matrix products alternate with PySCF's OpenMP kernels here: a second pool of BLAS threads, which spin
        # while they wait, makes a build on two cores slower than on one (0.77 s against 0.41 s for 132 AOs).
        with self._blas.limit(limits=1, user_api="blas"):
            factor = occupied_factor(dm, self.overlap)
            fock = self.hcore + self._coulomb_exchange(factor)
            if self._xctype != "HF":
                fock += self._xc_matrix(factor)
        self.builds += 1
        return fock

    def _coulomb_exchange(self, factor: Factor) -> Array:
        dm = (factor.orbitals * factor.occupations) @ factor.orbitals.T
        if (factor.occupations > 0).all():  # PySCF's DF takes the square root of the occupations of a tagged density
            dm = lib.tag_array(dm, mo_coeff=factor.orbitals, mo_occ=factor.occupations)
        with_k = abs(self._hybrid) > 1e-10
        vj, vk = self.with_df.get_jk(dm, hermi=1, with_k=with_k)
        total: Array = vj
        if with_k:
            total = total - (0.5 * self._hybrid) * vk
        if abs(self._omega) > 1e-10:  # range separation, as in pyscf.dft.rks.get_veff
            long_range = self.with_df.get_jk(dm, hermi=1, with_j=False, with_k=True, omega=self._omega)[1]
            total = total - 0.5 * (self._alpha - self._hybrid) * long_range
        return total

    def _xc_matrix(self, factor: Factor) -> Array:
        """V_xc (nao, nao) as in `pyscf.dft.numint.nr_rks`, with our grid blocks."""
        xctype = self._xctype
        half = np.zeros((self.mol.nao, self.mol.nao))  # V = half + half^T
        buffer = np.empty(_BLOCK * self.mol.nao)
        for ao, weights in self._blocks():
            rho = self._density(ao, factor)
            weighted = self._numint.eval_xc_eff(self.xc, rho, deriv=1, xctype=xctype)[1] * weights
            weighted[0] *= 0.5  # the value term is symmetric by itself, the gradient terms are not
            half += ao[0].T @ numint._scale_ao(ao, weighted[: len(ao)], buffer)
            if xctype == "MGGA":  # tau = 1/2 sum |grad psi|^2, half of it here
                for x in range(1, 4):
                    half += ao[x].T @ numint._scale_ao(ao[x], 0.25 * weighted[4], buffer)
        total: Array = half + half.T
        return total

    def _density(self, ao: Array, factor: Factor) -> Array:
        """Density components (x, g) as `NumInt.eval_xc_eff` takes them: value, gradient (GGA), tau (meta-GGA).

        The same as `numint.eval_rho2`, at a third of its time: numpy's matrix product on all four components at once.
        """
        orbitals = np.matmul(factor.orbitals.T, ao.transpose(0, 2, 1))  # (x, i, g)
        scaled = orbitals[0] * factor.occupations[:, None]
        rho: Array = np.einsum("ig,xig->xg", scaled, orbitals)
        rho[1:] *= 2
        if self._xctype == "MGGA":
            gradient = orbitals[1:]
            tau = 0.5 * np.einsum("xig,xig,i->g", gradient, gradient, factor.occupations)
            rho = np.vstack([rho, tau])
        return rho
