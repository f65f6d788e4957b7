"""Equivariant normalisation and gates."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pyscf_tracegrad.layers.degrees import degrees


class EquivariantNorm(nn.Module):
    """Divide a feature (n, dim, channels) by its root mean square over all degrees, with a learned scale per degree.

    Every degree counts alike (weight 1/(2l+1) per component). The scalars are centred first, over the channels. The
    order of the rows is degree-major, or m-major with `m_major=True`: the norm does not see rotations.
    """

    def __init__(self, l_max: int, channels: int, m_major: bool = False) -> None:
        super().__init__()
        table = degrees(l_max)
        self.irreps_in = self.irreps_out = table.irreps(channels)
        of_row = table.of_m_row if m_major else table.of_row
        self.scale = nn.Parameter(torch.ones(l_max + 1, channels))
        self.register_buffer("of_row", torch.tensor(of_row), persistent=False)
        weights = torch.tensor([1.0 / ((l_max + 1) * (2 * l + 1)) for l in of_row])
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        scalars, rest = x.split([1, x.shape[1] - 1], 1)
        x = torch.cat([scalars - scalars.mean(2, keepdim=True), rest], 1)
        square = x.pow(2).mean(2) @ cast(Tensor, self.weights)
        rows = self.scale.index_select(0, cast(Tensor, self.of_row))
        return x * torch.rsqrt(square + 1e-6)[:, None, None] * rows


class Gate(nn.Module):
    """Multiply each degree and channel by an invariant: x (n, dim, channels), gates (n, (l_max+1) * channels)."""

    def __init__(self, l_max: int, m_major: bool = False) -> None:
        super().__init__()
        table = degrees(l_max)
        self.n_degrees = l_max + 1
        of_row = table.of_m_row if m_major else table.of_row
        self.register_buffer("of_row", torch.tensor(of_row), persistent=False)

    def forward(self, x: Tensor, gates: Tensor) -> Tensor:
        rows = gates.view(x.shape[0], self.n_degrees, x.shape[2]).index_select(1, cast(Tensor, self.of_row))
        return x * rows


def degree_norms(x: Tensor, l_max: int) -> Tensor:
    """Invariants (n, (l_max+1) channels) of a degree-major feature: the scalars, and mean squares of each l > 0."""
    parts = x.split(degrees(l_max).sizes, 1)
    return torch.cat([parts[0][:, 0]] + [part.pow(2).mean(1) for part in parts[1:]], 1)
