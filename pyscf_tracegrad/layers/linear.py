"""Linear maps that commute with rotations: per degree, and per m in a bond frame."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyscf_tracegrad.layers.degrees import degrees


class DegreeLinear(nn.Module):
    """Mix the channels of each degree, with a bias on l = 0: (n, dim, c_in) -> (n, dim, c_out), degree-major.

    The same as `e3nn.o3.Linear` between `irreps_in` and `irreps_out`, in a layout that keeps the components in a row.
    """

    def __init__(self, l_max: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.sizes = degrees(l_max).sizes
        self.irreps_in, self.irreps_out = degrees(l_max).irreps(c_in), degrees(l_max).irreps(c_out)
        self.weight = nn.Parameter(torch.randn(l_max + 1, c_in, c_out) / math.sqrt(c_in))
        self.bias = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor) -> Tensor:
        parts = [part @ weight for part, weight in zip(x.split(self.sizes, 1), self.weight.unbind(0), strict=True)]
        parts[0] = parts[0] + self.bias
        return torch.cat(parts, 1)


class SO2Linear(nn.Module):
    """Mix degrees and channels, never m: (n, dim, c_in) -> (n, dim, c_out) in a bond frame, m-major.

    Cosine and sine rows of an m share their weights, which makes the map even under reflections through the bond; m = 0
    has a bias. This is every tensor product with the spherical harmonics of the bond, at O(l^3) instead of O(l^6)
    (Passaro and Zitnick, arXiv 2302.03655).
    """

    def __init__(self, l_max: int, c_in: int, c_out: int) -> None:
        super().__init__()
        self.table = degrees(l_max)
        self.irreps_in, self.irreps_out = self.table.irreps(c_in), self.table.irreps(c_out)
        self.c_out = c_out
        self.maps = nn.ModuleList(
            nn.Linear(self.table.count(m) * c_in, self.table.count(m) * c_out, bias=m == 0) for m in range(l_max + 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        out = []
        for m, (part, linear) in enumerate(zip(x.split(self.table.m_sizes, 1), self.maps, strict=True)):
            rows = part.flatten(1) if m == 0 else part.unflatten(1, (2, -1)).flatten(2)
            out.append(linear(rows).view(n, self.table.m_sizes[m], self.c_out))
        return torch.cat(out, 1)


def mlp(c_in: int, hidden: int, c_out: int) -> nn.Sequential:
    """Two-layer perceptron on invariants."""
    return nn.Sequential(nn.Linear(c_in, hidden), nn.SiLU(), nn.Linear(hidden, c_out))
