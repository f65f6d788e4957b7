"""Wigner matrices of bond frames.

e3nn 0.6 builds `o3.wigner_D` from generators rounded to float32 and takes three matrix exponentials a call, which costs
1e-6 in float64 and a tenth of a forward pass. Here the rotation about e3nn's polar axis y is written out, and the one
about x is the same in a basis turned by a constant matrix, which e3nn's spherical harmonics give exactly.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from pyscf_tracegrad.o3 import o3

# y -> x, x -> z, z -> y: takes rotations about y into rotations about x
_AXES = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype=torch.float64)


@cache
def _turn(l: int) -> Tensor:
    """D_l of the axis permutation above, (2l+1, 2l+1) float64, from harmonics at as many points in general position.

    The permutation is a turn by pi/2 between quarter turns about the polar axis, so every element squared is an integer
    over 4^l (a product of two Krawtchouk numbers). Taking that integer leaves nothing of the least squares' rounding,
    which is another one in every process: a training would not be the same twice.
    """
    with torch.inference_mode(False):
        points = torch.randn(8 * l + 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(l))
        before = o3.spherical_harmonics(l, points, normalize=True)
        after = o3.spherical_harmonics(l, points @ _AXES.T, normalize=True)
        turn = torch.linalg.lstsq(before, after).solution.T
        exact: Tensor = turn.sign() * ((turn.square() * 4**l).round() / 4**l).sqrt()
        return exact.contiguous()


def polar_rotation(l: int, angle: Tensor) -> Tensor:
    """D_l (n, 2l+1, 2l+1) of the rotation by `angle` (n,) about e3nn's polar axis."""
    m = torch.arange(-l, l + 1, dtype=angle.dtype, device=angle.device)
    phase = angle[:, None] * m
    sine = torch.diag_embed(-torch.sin(phase)).flip(2)
    return torch.diag_embed(torch.cos(phase)) + sine


def frame_rotations(directions: Tensor, l_max: int) -> list[Tensor]:
    """D_l, l = 0..l_max, each (n, 2l+1, 2l+1), of a rotation that takes e3nn's polar axis to unit vectors (n, 3)."""
    alpha, beta = o3.xyz_to_angles(directions)
    rotations = []
    for l in range(l_max + 1):
        turn = _turn(l).to(dtype=directions.dtype, device=directions.device)
        rotations.append(polar_rotation(l, alpha) @ turn @ polar_rotation(l, beta) @ turn.T)
    return rotations
