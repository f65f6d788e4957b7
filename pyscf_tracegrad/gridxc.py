"""V_xc on a coarse grid, cheap to evaluate again and again, for restricted and unrestricted densities.

The same as `pyscf.dft.numint.nr_rks` and `nr_uks` at a third of their time: numpy's matrix products on blocks of AO
values that stay in the allocator's reach, or that are kept.

Array letters: g grid points, p AOs, i occupied orbitals, x the value and its three derivatives, s spin.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, lib
from pyscf.data.elements import _std_symbol_without_ghost, charge
from pyscf.dft import gen_grid, numint

from pyscf_tracegrad.density import Factor

Array = NDArray[np.float64]

# 72 x 56 grid points a block (PySCF's kernels work on multiples of 56): 4 x 4032 x 130 AOs x 8 bytes = 17 MB, small
# enough that the allocator reuses the pages; a single array for the whole grid costs six times as much in page faults.
_BLOCK = 72 * numint.BLKSIZE
_THIN_ANGULAR = 110

AtomGrid = dict[str, tuple[int, int]]


def thin_grid(mol: gto.Mole) -> AtomGrid:
    """Half of the radial points of level 1 for each element, and 110 angular ones: a third of its points.

    Too coarse for a result: the gradient norm of a density converged on it is some 1e-3 hartree on PySCF's own grid. A
    correction at a density close by takes that away (`refine.py`).
    """
    symbols = {mol.atom_symbol(atom) for atom in range(mol.natm)}
    elements = {symbol: charge(_std_symbol_without_ghost(symbol)) for symbol in symbols}
    return {symbol: (int(gen_grid._default_rad(z, 1)) // 2, _THIN_ANGULAR) for symbol, z in elements.items()}


class GridXC:
    """Exchange-correlation matrices of one molecule on one grid.

    mol: built molecule. grid: PySCF grid level (level 1 has an orientation noise of about 1e-6 hartree, level 0 of
    2e-5), or numbers of radial and angular points of each element, as PySCF's `Grids.atom_grid`. max_memory: MB; bounds
    the AO values that are kept. keep_after: AO values are kept from this evaluation on. Keeping costs one allocation of
    the whole grid, as much as about six evaluations, so it pays for the many builds of a refinement and not for the two
    or three of a reference.
    """

    def __init__(self, mol: gto.Mole, grid: int | AtomGrid, max_memory: float, keep_after: int) -> None:
        self.mol, self.max_memory, self.keep_after = mol, max_memory, keep_after
        self.evaluations = 0
        self._grid = grid
        self._numint = numint.NumInt()
        self._eval_name = f"GTOval_{'cart' if mol.cart else 'sph'}_deriv1"
        self._kept: list[Array] = []

    @cached_property
    def _points(self) -> tuple[Array, Array, Array]:
        """Coordinates (g, 3), weights (g,) and where AOs are negligible; made when the grid is first used."""
        grids = dft.Grids(self.mol)
        grids.verbose = 0
        if isinstance(self._grid, int):
            grids.level = self._grid
        else:
            grids.atom_grid = self._grid
        grids.build(with_non0tab=False, sort_grids=True)  # sorted: whole blocks of AO values are negligible
        return grids.coords, grids.weights, numint.make_mask(self.mol, grids.coords)

    def __len__(self) -> int:
        """Number of points."""
        return len(self._points[1])

    @property
    def megabytes(self) -> float:
        """Memory of the kept AO values, MB."""
        return 1e-6 * sum(ao.nbytes for ao in self._kept)

    def forget(self) -> None:
        """Let the kept AO values go."""
        self._kept.clear()

    def _blocks(self) -> Iterator[tuple[Array, Array]]:
        """AO values (x, g, p) and weights (g,) of consecutive blocks of the grid."""
        coords, weights, mask = self._points
        npoints = len(weights)
        free = self.max_memory - lib.current_memory()[0]
        keep = self.evaluations >= self.keep_after and 4 * npoints * self.mol.nao * 8e-6 < 0.5 * free
        for number, start in enumerate(range(0, npoints, _BLOCK)):
            points = slice(start, min(start + _BLOCK, npoints))
            if number < len(self._kept):
                yield self._kept[number], weights[points]
                continue
            rows = slice(start // numint.BLKSIZE, -(-points.stop // numint.BLKSIZE))
            ao: Array = self.mol.eval_gto(self._eval_name, coords[points], non0tab=mask[rows])
            if keep:
                self._kept.append(ao)
            yield ao, weights[points]

    def __call__(self, xc: str, factors: tuple[Factor, ...]) -> Array:
        """V_xc (s, nao, nao), hartree, of one factor (restricted, the whole density) or two (one per spin)."""
        xctype = self._numint._xc_type(xc)
        nao = self.mol.nao
        half = np.zeros((len(factors), nao, nao))  # V = half + half^T
        buffer = np.empty(_BLOCK * nao)
        for ao, weights in self._blocks():
            ao = ao[:1] if xctype == "LDA" else ao
            rho = np.stack([_density(ao, factor, xctype) for factor in factors])  # (s, x, g)
            rho = rho[:, 0] if xctype == "LDA" else rho
            potential = self._numint.eval_xc_eff(xc, rho[0] if len(factors) == 1 else rho, deriv=1, xctype=xctype)[1]
            for spin, weighted in enumerate(potential.reshape(len(factors), -1, len(weights)) * weights):
                half[spin] += _half_matrix(ao, weighted, xctype, buffer)
        self.evaluations += 1
        total: Array = half + half.transpose(0, 2, 1)
        return total


def _half_matrix(ao: Array, weighted: Array, xctype: str, buffer: Array) -> Array:
    """Half of the matrix of a potential (x, g), weights included; its transpose is the other half."""
    weighted[0] *= 0.5  # the value term is symmetric by itself, the gradient terms are not
    half: Array = ao[0].T @ numint._scale_ao(ao, weighted[: len(ao)], buffer)
    if xctype == "MGGA":  # tau = 1/2 sum |grad psi|^2, half of it here
        for x in range(1, 4):
            half += ao[x].T @ numint._scale_ao(ao[x], 0.25 * weighted[4], buffer)
    return half


def _density(ao: Array, factor: Factor, xctype: str) -> Array:
    """Density components (x, g) as `NumInt.eval_xc_eff` takes them: value, gradient (GGA), tau (meta-GGA).

    The same as `numint.eval_rho2`, at a third of its time: numpy's matrix product on all four components at once.
    """
    orbitals = np.matmul(factor.orbitals.T, ao.transpose(0, 2, 1))  # (x, i, g)
    scaled = orbitals[0] * factor.occupations[:, None]
    rho: Array = np.einsum("ig,xig->xg", scaled, orbitals)
    rho[1:] *= 2
    if xctype == "MGGA":
        gradient = orbitals[1:]
        tau = 0.5 * np.einsum("xig,xig,i->g", gradient, gradient, factor.occupations)
        rho = np.vstack([rho, tau])
    return rho
