"""V_xc on a coarse grid, cheap to evaluate again and again, for restricted and unrestricted densities.

The same as `pyscf.dft.numint.nr_rks` and `nr_uks` at a third of their time: numpy's matrix products on blocks of AO
values that stay in the allocator's reach, or that are kept; in single precision at a sixth, to some 1e-8 hartree (5e-6
the largest element).

Array letters: g grid points, p AOs, i occupied orbitals, x the value and its three derivatives, s spin.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, lib
from pyscf.data.elements import _std_symbol_without_ghost, charge
from pyscf.dft import gen_grid, numint

from pyscf_tracegrad.density import Factor
from pyscf_tracegrad.functional import Functional
from pyscf_tracegrad.workers import sum_over_workers

Array = NDArray[np.float64]
# AO values and what is made of them, in double or single precision
Values = NDArray[np.floating[Any]]

# 72 x 56 grid points a block (PySCF's kernels work on multiples of 56): 4 x 4032 x 130 AOs x 8 bytes = 17 MB, small
# enough that the allocator reuses the pages; a single array for the whole grid costs six times as much in page faults.
_BLOCK = 72 * numint.BLKSIZE
_THIN_ANGULAR = 110
# AO values and potentials below these are nothing. In single precision they must go: their products would be subnormal
# numbers, and arithmetic with those takes four times as long.
_NO_AO, _NO_POTENTIAL = 1e-12, 1e-14

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
    or three of a reference. single: AO values and matrix products in single precision.
    """

    def __init__(
        self, mol: gto.Mole, grid: int | AtomGrid, max_memory: float, keep_after: int, single: bool = False
    ) -> None:
        self.mol, self.max_memory, self.keep_after, self.single = mol, max_memory, keep_after, single
        self.evaluations = 0
        self._grid = grid
        self._eval_name = f"GTOval_{'cart' if mol.cart else 'sph'}_deriv1"
        self._kept: dict[int, Values] = {}  # by number of the block

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
        return 1e-6 * sum(ao.nbytes for ao in self._kept.values())

    def forget(self) -> None:
        """Let the kept AO values go."""
        self._kept.clear()

    def _block(self, number: int, keep: bool) -> tuple[Values, Array]:
        """AO values (x, g, p) and weights (g,) of one block of the grid."""
        coords, weights, mask = self._points
        points = slice(number * _BLOCK, min((number + 1) * _BLOCK, len(weights)))
        ao = self._kept.get(number)
        if ao is None:
            rows = slice(points.start // numint.BLKSIZE, -(-points.stop // numint.BLKSIZE))
            ao = self.mol.eval_gto(self._eval_name, coords[points], non0tab=mask[rows])
            if self.single:
                ao = _single(ao, _NO_AO)
            if keep:
                self._kept[number] = ao
        return ao, weights[points]

    def _keeps(self) -> bool:
        """Whether this evaluation keeps its AO values."""
        free = self.max_memory - lib.current_memory()[0]
        megabytes = 4 * len(self) * self.mol.nao * (4e-6 if self.single else 8e-6)
        return self.evaluations >= self.keep_after and megabytes < 0.5 * free

    def __call__(self, xc: str | Functional, factors: tuple[Factor, ...]) -> tuple[Array, float]:
        """V_xc (s, nao, nao) and E_xc, hartree, of one factor (restricted, the whole density) or two (one per spin)."""
        functional = Functional.named(xc) if isinstance(xc, str) else xc
        xctype = functional.kind
        nao, keep, n_blocks = self.mol.nao, self._keeps(), -(-len(self) // _BLOCK)

        def part(first: int, step: int) -> Array:
            summed = np.zeros(1 + len(factors) * nao * nao)  # the energy, and V = half + half^T
            half = summed[1:].reshape(len(factors), nao, nao)
            buffer = np.empty(_BLOCK * nao)
            for number in range(first, n_blocks, step):
                ao, weights = self._block(number, keep)
                ao = ao[:1] if xctype == "LDA" else ao
                energies, potential = self._potential(functional, ao, factors)
                summed[0] += energies @ weights
                for spin, weighted in enumerate(potential * weights):
                    half[spin] += _half_matrix(ao, weighted, xctype, buffer)
            return summed

        summed = sum_over_workers(part, n_blocks)
        self.evaluations += 1
        half = summed[1:].reshape(len(factors), nao, nao)
        return half + half.transpose(0, 2, 1), float(summed[0])

    def _potential(self, functional: Functional, ao: Values, factors: tuple[Factor, ...]) -> tuple[Array, Array]:
        """Energy (g,) per volume, and its derivatives (s, x, g) by the components of the density."""
        xctype = functional.kind
        rho = np.stack([_density(ao, factor, xctype) for factor in factors]).astype(np.float64)  # (s, x, g)
        rho = rho[:, 0] if xctype == "LDA" else rho
        total = (rho if xctype == "LDA" else rho[:, 0]).sum(0)
        rho = rho[0] if len(factors) == 1 else rho
        energy, potential = functional.numint.eval_xc_eff(functional.xc, rho, deriv=1, xctype=xctype)[:2]
        return total * np.ravel(energy), np.asarray(potential).reshape(len(factors), -1, ao.shape[1])


def _single(values: Array, nothing: float) -> Values:
    """In single precision, without what is smaller than `nothing`."""
    made = values.astype(np.float32)  # keeps the order of the axes in memory
    made[np.abs(made) < nothing] = 0.0
    return made


def _half_matrix(ao: Values, weighted: Array, xctype: str, buffer: Array) -> Values:
    """Half of the matrix of a potential (x, g), weights included; its transpose is the other half."""
    weighted[0] *= 0.5  # the value term is symmetric by itself, the gradient terms are not
    half: Values = ao[0].T @ _scaled(ao, weighted[: len(ao)], buffer)
    if xctype == "MGGA":  # tau = 1/2 sum |grad psi|^2, half of it here
        for x in range(1, 4):
            half += ao[x].T @ _scaled(ao[x : x + 1], 0.25 * weighted[4:], buffer)
    return half


def _scaled(ao: Values, weighted: Array, buffer: Array) -> Values:
    """Sum over x of AO values (x, g, p) times a potential (x, g): (g, p)."""
    if ao.dtype == np.float64:
        scaled: Values = numint._scale_ao(ao, weighted, buffer)
        return scaled
    out = np.frombuffer(buffer, dtype=np.float32, count=ao[0].size).reshape(ao.shape[2], ao.shape[1])
    np.einsum("xgp,xg->pg", ao, _single(weighted, _NO_POTENTIAL), out=out)
    return out.T


def _density(ao: Values, factor: Factor, xctype: str) -> Values:
    """Density components (x, g) as `NumInt.eval_xc_eff` takes them: value, gradient (GGA), tau (meta-GGA).

    The same as `numint.eval_rho2`, at a third of its time: numpy's matrix product on all four components at once.
    """
    coefficients, occupations = factor.orbitals.astype(ao.dtype), factor.occupations.astype(ao.dtype)
    orbitals = np.matmul(coefficients.T, ao.transpose(0, 2, 1))  # (x, i, g)
    scaled = orbitals[0] * occupations[:, None]
    rho: Values = np.einsum("ig,xig->xg", scaled, orbitals)
    rho[1:] *= 2
    if xctype == "MGGA":
        gradient = orbitals[1:]
        tau = 0.5 * np.einsum("xig,xig,i->g", gradient, gradient, occupations)
        rho = np.vstack([rho, tau])
    return rho
