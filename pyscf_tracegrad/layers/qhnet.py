"""Layers of the published QHNet: message passing, pair and self layers.

Features have shape (n, rows, channels) (`rows`); e3nn's layout is used in the tensor products only. Edges are directed
here: dst hears src. All dst = i, src = j of the edges i < j come first, then all dst = j, src = i.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from e3nn.nn import FullyConnectedNet
from torch import Tensor, nn

from pyscf_tracegrad.layers.constant import Constant
from pyscf_tracegrad.layers.couplings import tensor_product
from pyscf_tracegrad.layers.linear import mlp
from pyscf_tracegrad.layers.norm_gate import IrrepsLinear, NormGate
from pyscf_tracegrad.layers.rows import Rows, degree_sums
from pyscf_tracegrad.o3 import o3

WEIGHT_HIDDEN = 32  # hidden width of the networks that make the weights of messages


def shifted_softplus(x: Tensor) -> Tensor:
    """log(1 + e^x) - log 2, zero at zero."""
    return nn.functional.softplus(x) - math.log(2.0)


@dataclass(frozen=True)
class Edges:
    """Edges i < j of a graph.

    i, j (n_edges,): atoms. radial (n_edges, n_radial): radial functions. harmonics (2 n_edges, (l_max+1)^2): spherical
    harmonics of position of dst less that of src, for both directions.
    """

    i: Tensor
    j: Tensor
    radial: Tensor
    harmonics: Tensor

    @property
    def dst(self) -> Tensor:
        """Atom that hears, (2 n_edges,)."""
        return torch.cat([self.i, self.j])

    @property
    def src(self) -> Tensor:
        """Atom that is heard, (2 n_edges,)."""
        return torch.cat([self.j, self.i])


def edge_harmonics(vectors: Tensor, l_max: int) -> Tensor:
    """Harmonics (2 n_edges, (l_max+1)^2) of both directions; vectors (n_edges, 3): position of j less that of i."""
    permuted = vectors[:, [1, 2, 0]]  # e3nn on (y, z, x) gives PySCF's order and signs
    found = o3.spherical_harmonics(list(range(l_max + 1)), permuted, normalize=True, normalization="component")
    signs = torch.tensor([(-1.0) ** l for l in Rows(l_max).degree_of_row], dtype=found.dtype, device=found.device)
    return torch.cat([found * signs, found], 0)


class EdgeInvariants(nn.Module):
    """Scalars of dst, scalars of src, inner products over 2l+1 per degree above 0: (2 n_edges, (l_max+2) channels).

    The inner products are the same for both directions and are computed once.
    """

    def __init__(self, rows: Rows) -> None:
        super().__init__()
        sizes = torch.tensor(rows.sizes[1:], dtype=torch.float64)
        self._means = Constant(degree_sums(rows) / sizes[:, None])

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        a, b = x.index_select(0, edges.i), x.index_select(0, edges.j)
        inner = (self._means(x) @ (a * b)[:, 1:]).flatten(1)
        own, other = a[:, 0], b[:, 0]
        return torch.cat([torch.cat([own, other, inner], 1), torch.cat([other, own, inner], 1)], 0)


def _both_directions(radial: Tensor, scalars: Tensor) -> Tensor:
    """Weights (2 n_edges, n) from factors of the distance (n_edges, n) and of the invariants (2 n_edges, n)."""
    return (scalars.view(2, *radial.shape) * radial).flatten(0, 1)


class QHConvolution(nn.Module):
    """Message passing: features of src times harmonics of the edge, weighted by distance and invariants, summed.

    rows_in: of the input, scalars alone or all natural irreps. With scalars alone there is no gate and no linear map
    in front. The sum, the gated input and then the input itself are added up as far as their irreps agree.
    """

    def __init__(self, rows_in: Rows, rows: Rows, channels: int, radial: int) -> None:
        super().__init__()
        self.rows_in, self.rows, self.first = rows_in, rows, rows_in.l_max == 0
        self.irreps_in, self.irreps_out = rows_in.with_channels(channels), rows.with_channels(channels)
        self.product = tensor_product(
            str(self.irreps_in), str(rows.with_channels(1)), str(self.irreps_out), "uvu", shared=False
        )
        self.pre = None if self.first else IrrepsLinear(rows, channels, channels)
        self.gate = None if self.first else NormGate(rows, channels)
        self.mix = None if self.first else IrrepsLinear(rows, channels, channels)
        self.invariants = EdgeInvariants(rows_in)
        numel, n_scalars = self.product.weight_numel, (rows_in.l_max + 2) * channels
        self.radial_net = FullyConnectedNet([radial, WEIGHT_HIDDEN, numel], shifted_softplus)
        self.scalar_net = FullyConnectedNet([n_scalars, WEIGHT_HIDDEN, numel], shifted_softplus)
        self.out = IrrepsLinear(rows, channels, channels)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        h, scalars = x, x
        if self.pre is not None and self.gate is not None and self.mix is not None:
            scalars, h = self.pre(x), self.mix(self.gate(x))
        weights = _both_directions(self.radial_net(edges.radial), self.scalar_net(self.invariants(scalars, edges)))
        flat = self.rows_in.to_e3nn(h)
        messages = self.product(flat.index_select(0, edges.src), edges.harmonics, weights)
        total = self.rows.from_e3nn(messages.new_zeros(len(x), messages.shape[1]).index_add(0, edges.dst, messages))
        y: Tensor = self.out(total if self.first else total + h)
        return y + pad_rows(x, self.rows)


def pad_rows(x: Tensor, rows: Rows) -> Tensor:
    """Natural features with zeros in the place of the irreps that they lack."""
    return nn.functional.pad(x, (0, 0, 0, rows.total - x.shape[1]))


class SelfLayer(nn.Module):
    """On-site features: an atom's features times themselves, gated; added to those of the layer before."""

    def __init__(self, rows_in: Rows, rows: Rows, channels: int) -> None:
        super().__init__()
        self.rows_in, self.rows = rows_in, rows
        self.irreps_in, self.irreps_out = rows_in.with_channels(channels), rows.with_channels(channels)
        name = str(self.irreps_in)
        self.product = tensor_product(name, name, str(self.irreps_out), "uuu", shared=True)
        self.left = nn.Sequential(NormGate(rows_in, channels), IrrepsLinear(rows_in, channels, channels))
        self.right = nn.Sequential(NormGate(rows_in, channels), IrrepsLinear(rows_in, channels, channels))
        self.weight = nn.Parameter(torch.randn(self.product.weight_numel))
        self.gate = NormGate(rows, channels)
        self.out = IrrepsLinear(rows, channels, channels)

    def forward(self, x: Tensor, before: Tensor | None) -> Tensor:
        left, right = self.rows_in.to_e3nn(self.left(x)), self.rows_in.to_e3nn(self.right(x))
        product = self.rows.from_e3nn(self.product(left, right, self.weight))
        y: Tensor = self.out(self.gate(product + pad_rows(x, self.rows)))
        return y if before is None else before + y


class PairLayer(nn.Module):
    """Pair features, both directions: features of src times those of dst, weighted by distance and invariants, gated;
    added to those of the layer before. `blocks` (2 n_edges, rows, channels), where there are any, come in at the gate.
    """

    def __init__(self, rows_in: Rows, rows: Rows, channels: int, radial: int) -> None:
        super().__init__()
        self.rows_in, self.rows = rows_in, rows
        self.irreps_in, self.irreps_out = rows_in.with_channels(channels), rows.with_channels(channels)
        name = str(self.irreps_in)
        self.product = tensor_product(name, name, str(self.irreps_out), "uuu", shared=False)
        self.pre = IrrepsLinear(rows_in, channels, channels)
        self.ends = nn.Sequential(NormGate(rows_in, channels), IrrepsLinear(rows_in, channels, channels))
        self.invariants = EdgeInvariants(rows_in)
        numel = self.product.weight_numel
        self.radial_net = FullyConnectedNet([radial, channels, numel], shifted_softplus)
        self.scalar_net = mlp((rows_in.l_max + 2) * channels, channels, numel)
        self.gate = NormGate(rows, channels)
        self.out = IrrepsLinear(rows, channels, channels)

    def forward(self, x: Tensor, edges: Edges, before: Tensor | None, blocks: Tensor | None) -> Tensor:
        scalars = self.scalar_net(self.invariants(self.pre(x), edges))
        weights = _both_directions(self.radial_net(edges.radial), scalars)
        ends = self.rows_in.to_e3nn(self.ends(x))
        found = self.product(ends.index_select(0, edges.src), ends.index_select(0, edges.dst), weights)
        product = self.rows.from_e3nn(found)
        y: Tensor = self.out(self.gate(product if blocks is None else product + blocks))
        return y if before is None else before + y
