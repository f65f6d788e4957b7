"""Exponential Bernstein polynomials of a distance (PhiSNet, arXiv 2106.02347; QHNet). Distances in bohr."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pyscf_tracegrad.layers.constant import Constant

BOHR = 0.529177210903  # Angstrom
_DECAY = 0.5 * BOHR  # 1/bohr; the published start is 0.5 per Angstrom


def bump_cutoff(distance: Tensor, cutoff: float) -> Tensor:
    """exp(-r^2 / ((c - r) (c + r))) below the cutoff c (bohr), 0 from there on; every derivative is continuous."""
    room = ((cutoff - distance) * (cutoff + distance)).clamp_min(torch.finfo(distance.dtype).tiny)
    return torch.exp(-distance.square() / room)


class BernsteinBasis(nn.Module):
    """f_cut(r) binom(K, k) e^{-a r (K-k)} (1 - e^{-a r})^k for k = 0..K: (n,) above 0 -> (n, K+1), from logarithms.

    a = softplus(decay) is the only parameter, 0.5 per Angstrom at the start.
    """

    def __init__(self, n: int, cutoff: float) -> None:
        super().__init__()
        top = n - 1
        self.cutoff = cutoff
        self.decay = nn.Parameter(torch.tensor(math.log(math.expm1(_DECAY))))
        self._binomials = Constant([math.log(math.comb(top, k)) for k in range(n)])
        self._falling, self._rising = (
            Constant([float(top - k) for k in range(n)]),
            Constant([float(k) for k in range(n)]),
        )

    def forward(self, distance: Tensor) -> Tensor:
        scaled = -nn.functional.softplus(self.decay) * distance[:, None]
        rise = torch.log(-torch.expm1(scaled))
        logs = self._binomials(distance) + scaled * self._falling(distance) + rise * self._rising(distance)
        return bump_cutoff(distance, self.cutoff)[:, None] * torch.exp(logs)
