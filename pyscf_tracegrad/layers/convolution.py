"""Message passing between atoms in bond frames, and the equivariant feed-forward that follows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pyscf_tracegrad.layers.degrees import degrees
from pyscf_tracegrad.layers.linear import DegreeLinear, SO2Linear, mlp
from pyscf_tracegrad.layers.norm import EquivariantNorm, Gate, degree_norms


@dataclass(frozen=True)
class BondFrames:
    """Frames of the edges i < j.

    rotation (n_edges, dim, dim): takes m-major rows in the frame to degree-major rows in global axes; its transpose
    goes back. radial (n_edges, n_radial), envelope (n_edges,), envelope_out (n_edges,): functions of the bond length
    that describe it, damp its messages, and take the output to zero at the cutoff.
    """

    edge_index: Tensor
    rotation: Tensor
    radial: Tensor
    envelope: Tensor
    envelope_out: Tensor


class FrameFeatures(nn.Module):
    """Features of both atoms of each edge, in its frame, for both directions: (2 n_edges, dim, 2 channels), m-major.

    The first half is i -> j order [x_j, x_i] (what i hears), the second [x_i, x_j] (what j hears) in the inverted
    frame, which is the factor (-1)^l: both directions use one frame.
    """

    def __init__(self, l_max: int) -> None:
        super().__init__()
        signs = torch.tensor([(-1.0) ** l for l in degrees(l_max).of_m_row])
        self.register_buffer("signs", signs[None, :, None], persistent=False)

    def invert(self, x: Tensor) -> Tensor:
        """The same rows seen from the inverted frame."""
        return x * cast(Tensor, self.signs)

    def forward(self, x: Tensor, frames: BondFrames) -> Tensor:
        i, j = frames.edge_index
        to_frame = frames.rotation.transpose(1, 2)
        a, b = torch.bmm(to_frame, x[i]), torch.bmm(to_frame, x[j])
        return torch.cat([torch.cat([b, a], 2), self.invert(torch.cat([a, b], 2))], 0)


def edge_scalars(x: Tensor, frames: BondFrames) -> Tensor:
    """Invariants (2 n_edges, n_radial + 2 channels) of both directions: radial functions, own and other scalars."""
    i, j = frames.edge_index
    own, other = x[i, 0], x[j, 0]
    radial = frames.radial
    return torch.cat([torch.cat([radial, own, other], 1), torch.cat([radial, other, own], 1)], 0)


class BondConvolution(nn.Module):
    """One layer of QHNet's message passing, written in bond frames (design: convolution with all harmonics of a bond).

    Messages: features of both ends, gated per degree and channel by the distance and both ends' scalars, SO(2)-linear,
    gated again, damped with distance, rotated back, summed; then a gated feed-forward. Both with residuals.
    """

    def __init__(self, l_max: int, channels: int, radial: int, neighbours: float = 12.0) -> None:
        super().__init__()
        self.l_max = l_max
        self.irreps_in = self.irreps_out = degrees(l_max).irreps(channels)
        scalars = radial + 2 * channels
        self.sum_scale = 1.0 / math.sqrt(neighbours)
        self.norm = EquivariantNorm(l_max, channels)
        self.gather = FrameFeatures(l_max)
        self.frame_gate = Gate(l_max, m_major=True)
        self.gate_in = mlp(scalars, 2 * channels, (l_max + 1) * 2 * channels)
        self.message = SO2Linear(l_max, 2 * channels, channels)
        self.gate_out = mlp(scalars, channels, (l_max + 1) * channels)
        self.combine = DegreeLinear(l_max, channels, channels)
        self.feed_norm = EquivariantNorm(l_max, channels)
        self.feed_gate = Gate(l_max)
        self.feed_gates = mlp((l_max + 1) * channels, 2 * channels, (l_max + 1) * 2 * channels)
        self.feed_up = DegreeLinear(l_max, channels, 2 * channels)
        self.feed_down = DegreeLinear(l_max, 2 * channels, channels)

    def forward(self, x: Tensor, frames: BondFrames) -> Tensor:
        h = self.norm(x)
        x = x + self.combine(self._messages(h, frames))
        h = self.feed_norm(x)
        hidden = self.feed_gate(self.feed_up(h), self.feed_gates(degree_norms(h, self.l_max)))
        out: Tensor = x + self.feed_down(hidden)
        return out

    def _messages(self, h: Tensor, frames: BondFrames) -> Tensor:
        i, j = frames.edge_index
        n_edges = frames.rotation.shape[0]
        scalars = edge_scalars(h, frames)
        y = self.message(self.frame_gate(self.gather(h, frames), self.gate_in(scalars)))
        envelope = frames.envelope.repeat(2)[:, None]
        y = self.frame_gate(y, self.gate_out(scalars) * envelope)
        to_i = torch.bmm(frames.rotation, y[:n_edges])
        to_j = torch.bmm(frames.rotation, self.gather.invert(y[n_edges:]))
        total = torch.zeros_like(h).index_add(0, i, to_i).index_add(0, j, to_j)
        return total * self.sum_scale
