"""Functions of a distance: radial basis and envelopes. Distances in bohr."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class RadialBasis(nn.Module):
    """Gaussians of sqrt(r), equally spaced from 1 bohr to the cutoff: narrow for bonds, wide for far pairs."""

    def __init__(self, n: int, cutoff: float) -> None:
        super().__init__()
        last = cutoff**0.5
        self.width = 1.3 * (last - 1.0) / n
        self.register_buffer("centres", torch.linspace(1.0, last, n), persistent=False)

    def forward(self, distance: Tensor) -> Tensor:
        scaled = (distance.sqrt()[:, None] - cast(Tensor, self.centres)) / self.width
        return torch.exp(-scaled.square())


def smooth_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """1 up to 0.8 of the cutoff, then to 0 at the cutoff with two continuous derivatives (quintic step)."""
    t = ((distance / cutoff - 0.8) / 0.2).clamp(0.0, 1.0)
    return 1.0 - t**3 * (10.0 - 15.0 * t + 6.0 * t**2)
