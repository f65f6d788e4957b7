"""QHNet's gate by norms, and the linear map per irrep that goes with it."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

from pyscf_tracegrad.layers.constant import Constant
from pyscf_tracegrad.layers.rows import Rows, degree_sums

# Added to a squared norm: its root then has a gradient of at most 1 everywhere, 0 at the origin.
_TINY = 1e-12


class NormGate(nn.Module):
    """QHNet's only non-linearity: (n, rows, channels) -> the same shape.

    The scalars and the norms of every other degree and channel go through a perceptron. Its first outputs replace the
    scalars, the others multiply the rows of their degree and channel. Irreps of one degree and both parities have one
    norm and one gate, so that the perceptron has the published size for either kind of feature.
    """

    def __init__(self, rows: Rows, channels: int) -> None:
        super().__init__()
        self.irreps_in = self.irreps_out = rows.with_channels(channels)
        self.shape = (-1, rows.l_max + 1, channels)
        n = (rows.l_max + 1) * channels
        self.mlp = nn.Sequential(nn.Linear(n, n), nn.SiLU(), nn.Linear(n, n))
        self._sums = Constant(degree_sums(rows))
        self.register_buffer("of_row", torch.tensor(rows.degree_of_row[1:]) - 1, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scalars, others = x.split([1, x.shape[1] - 1], 1)
        norms = torch.sqrt(self._sums(x) @ others.square() + _TINY)
        out = self.mlp(torch.cat([scalars, norms], 1).flatten(1)).view(self.shape)
        new_scalars, gates = out.split([1, out.shape[1] - 1], 1)
        return torch.cat([new_scalars, others * gates.index_select(1, cast(Tensor, self.of_row))], 1)


class IrrepsLinear(nn.Module):
    """Mix the channels of each irrep: (n, rows, c_in) -> (n, rows, c_out), with a bias on l = 0 unless told otherwise.

    `e3nn.o3.Linear` in our layout, with its normalisation: weights of unit variance, divided by sqrt(c_in) when used,
    so that a learning rate means what it means there.
    """

    def __init__(self, rows: Rows, c_in: int, c_out: int, bias: bool = True) -> None:
        super().__init__()
        self.irreps_in, self.irreps_out = rows.with_channels(c_in), rows.with_channels(c_out)
        self.sizes = rows.sizes
        self.scale = 1.0 / math.sqrt(c_in)
        self.weight = nn.Parameter(torch.randn(len(self.sizes), c_in, c_out))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.weight * self.scale).unbind(0)
        parts = [part @ weight for part, weight in zip(x.split(self.sizes, 1), weights, strict=True)]
        if self.bias is not None:
            parts[0] = parts[0] + self.bias
        return torch.cat(parts, 1)
