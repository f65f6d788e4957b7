"""QHNet's decoder: features -> blocks in global axes by Wigner-3j symbols, and the transpose, blocks -> features.

Block (l1, l2) of shells u, v has the irreps L = |l1-l2|..l1+l2, all of parity (-1)^(l1+l2): natural where l1 + l2 + L
is even, else unnatural (p-p 1e, p-d 2o, d-d 1e and 3e).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyscf_tracegrad.block_basis import shell_starts
from pyscf_tracegrad.layers.constant import Constant
from pyscf_tracegrad.layers.norm_gate import IrrepsLinear
from pyscf_tracegrad.layers.rows import Rows
from pyscf_tracegrad.o3 import o3

BOTTLENECK = 32  # channels that are expanded


@dataclass(frozen=True)
class BlockCouplings:
    """Irreps of a block of padded shells, as rows of features with these irreps.

    rows: the irreps. counts: couplings (shell u, shell v) of each irrep, in this order. matrix (width^2, width^2):
    Wigner-3j symbols of unit norm, one row for each irrep, m and coupling, in this order.
    """

    rows: Rows
    counts: tuple[int, ...]
    matrix: NDArray[np.float64]

    @property
    def width(self) -> int:
        """Rows of a block."""
        return math.isqrt(len(self.matrix))


def block_couplings(shells: tuple[int, ...], l_max: int) -> BlockCouplings:
    """Couplings of padded shells of these degrees. Raises ValueError where they need a degree above l_max."""
    if 2 * max(shells) > l_max:
        raise ValueError(f"shells up to l = {max(shells)} need features with l_max = {2 * max(shells)}, not {l_max}")
    starts, width = shell_starts(shells), sum(2 * l + 1 for l in shells)
    found: dict[tuple[int, int], list[NDArray[np.float64]]] = {}
    for u, l1 in zip(starts, shells, strict=True):
        for v, l2 in zip(starts, shells, strict=True):
            for big in range(abs(l1 - l2), l1 + l2 + 1):
                full = np.zeros((2 * big + 1, width, width))
                symbols = o3.wigner_3j(l1, l2, big, dtype=torch.float64).numpy()
                full[:, u : u + 2 * l1 + 1, v : v + 2 * l2 + 1] = symbols.transpose(2, 0, 1)
                found.setdefault((big, (-1) ** (l1 + l2)), []).append(full)
    unnatural = tuple(sorted(l for l, parity in found if parity != (-1) ** l))
    rows = Rows(l_max, unnatural)
    counts = tuple(len(found.get(irrep, [])) for irrep in rows.irreps)
    blocks = [np.stack(found[irrep], 1).reshape(-1, width * width) for irrep in rows.irreps if irrep in found]
    return BlockCouplings(rows, counts, np.concatenate(blocks))


class Expansion(nn.Module):
    """Features (n, rows, channels) and weights (n, n_weights + n_biases) of each block -> blocks (n, width, width).

    The coupling of shells u, v to L has sum_w W[w, uvL] f_{L, w} of the 32 channels w, plus a bias for L = 0, all over
    32; Wigner-3j symbols take it to global axes.
    """

    def __init__(self, couplings: BlockCouplings, channels: int) -> None:
        super().__init__()
        self.rows, self.counts, self.width = couplings.rows, couplings.counts, couplings.width
        self.n_weights, self.n_biases = BOTTLENECK * sum(self.counts), self.counts[0]
        self.irreps_in = self.rows.with_channels(channels)
        self.mix = IrrepsLinear(self.rows, channels, BOTTLENECK, bias=False)
        self._matrix = Constant(couplings.matrix)

    def forward(self, feature: Tensor, weights: Tensor) -> Tensor:
        n = len(feature)
        *parts, bias = weights.split([BOTTLENECK * count for count in self.counts] + [self.n_biases], 1)
        coupled = [
            torch.bmm(f, w.view(n, BOTTLENECK, count))
            for f, w, count in zip(self.mix(feature).split(self.rows.sizes, 1), parts, self.counts, strict=True)
        ]
        coupled[0] = coupled[0] + bias[:, None]
        flat = torch.cat([part.flatten(1) for part in coupled], 1) / BOTTLENECK
        return (flat @ self._matrix(flat)).view(n, self.width, self.width)


class BlockEmbedding(nn.Module):
    """Blocks (n, fields, width, width) in global axes -> features (n, rows, channels): the transposed expansion.

    Symbols are taken with norm 2L+1, which makes their matrix orthogonal. Irreps that the blocks lack are zero.
    """

    def __init__(self, couplings: BlockCouplings, channels: int, fields: int) -> None:
        super().__init__()
        self.rows, self.counts, self.channels = couplings.rows, couplings.counts, channels
        self.irreps_out = self.rows.with_channels(channels)
        self.sizes = [size * count for size, count in zip(self.rows.sizes, self.counts, strict=True)]
        norms = np.linalg.norm(couplings.matrix, axis=1, keepdims=True)
        self._matrix = Constant((couplings.matrix / norms).T)
        self.maps = nn.ModuleDict(
            {str(k): nn.Linear(fields * n, channels, bias=False) for k, n in enumerate(self.counts) if n}
        )

    def forward(self, blocks: Tensor) -> Tensor:
        n = len(blocks)
        flat = blocks.flatten(2)
        out = []
        for k, part in enumerate((flat @ self._matrix(flat)).split(self.sizes, 2)):
            size = self.rows.sizes[k]
            if not self.counts[k]:
                out.append(flat.new_zeros(n, size, self.channels))
                continue
            shaped = part.unflatten(2, (size, self.counts[k]))  # (n, fields, m, couplings)
            out.append(self.maps[str(k)](shaped.transpose(1, 2).flatten(2)))
        return torch.cat(out, 1)
