"""Degrees l = 0..l_max of a feature: row bookkeeping, bond frames, irreps.

Features have shape (n, (l_max+1)^2, channels). Two orders of the rows are used:

* degree-major (global axes): l = 0, 1, 2, ... and within each m = -l..l, e3nn's order for coordinates (y, z, x), which
  is PySCF's for every l but p;
* m-major (in a bond frame): m = 0 of every l, then for m = 1, 2, ...: the cosine rows (+m) of l = m..l_max, then the
  sine rows (-m). Rotations about the bond mix cosine and sine rows of the same m only.

Parity is natural, (-1)^l, throughout.
"""

from __future__ import annotations

from functools import cache

from torch import Tensor

from pyscf_tracegrad.layers.wigner import frame_rotations
from pyscf_tracegrad.o3 import o3


class Degrees:
    """Index tables for degrees 0..l_max."""

    def __init__(self, l_max: int) -> None:
        self.l_max = l_max
        self.dim = (l_max + 1) ** 2
        self.sizes = [2 * l + 1 for l in range(l_max + 1)]
        self.of_row = [l for l in range(l_max + 1) for _ in range(2 * l + 1)]
        centre = [l * l + l for l in range(l_max + 1)]
        self.m_major = centre[:]
        for m in range(1, l_max + 1):
            self.m_major += [centre[l] + m for l in range(m, l_max + 1)]
            self.m_major += [centre[l] - m for l in range(m, l_max + 1)]
        self.of_m_row = [self.of_row[row] for row in self.m_major]
        # rows of m = 0, then of m = 1, 2, ... (cosine and sine together)
        self.m_sizes = [l_max + 1] + [2 * (l_max + 1 - m) for m in range(1, l_max + 1)]

    def count(self, m: int) -> int:
        """Number of degrees that have a component m."""
        return self.l_max + 1 - m

    def irreps(self, channels: int) -> o3.Irreps:
        """e3nn's name for a feature with these degrees: channels x (0e + 1o + 2e + ...)."""
        return o3.Irreps([(channels, (l, (-1) ** l)) for l in range(self.l_max + 1)])


@cache
def degrees(l_max: int) -> Degrees:
    """The index tables for l_max (made once)."""
    return Degrees(l_max)


def bond_rotations(vectors: Tensor, l_max: int) -> list[Tensor]:
    """Wigner matrices D_l, l = 0..l_max, each (n, 2l+1, 2l+1), that take the frame of a bond to the global axes.

    vectors (n, 3): cartesian (x, y, z), any length above 0. The polar axis of the frame is the bond; the angle about
    it is left to chance, and every map used in the frame commutes with rotations about it. Computed in float64.
    """
    permuted = vectors[:, [1, 2, 0]].double()  # e3nn on (y, z, x) gives PySCF's order and signs
    return frame_rotations(permuted / permuted.norm(dim=1, keepdim=True), l_max)


def block_diagonal(matrices: list[Tensor], order: list[int] | None = None) -> Tensor:
    """Put square matrices (n, a, a), (n, b, b), ... on the diagonal of (n, sum, sum); `order` picks columns."""
    total = sum(m.shape[1] for m in matrices)
    out = matrices[0].new_zeros(matrices[0].shape[0], total, total)
    start = 0
    for matrix in matrices:
        stop = start + matrix.shape[1]
        out[:, start:stop, start:stop] = matrix
        start = stop
    return out if order is None else out[:, :, order]
