"""Features -> blocks, and blocks <-> matrices.

The decoders are linear maps from the components of a feature to those of a block in standard units; the only products
are those that unnatural parity asks for.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pyscf_tracegrad.block_basis import PairBasis, SiteBasis
from pyscf_tracegrad.layers.constant import Constant
from pyscf_tracegrad.layers.degrees import degrees
from pyscf_tracegrad.layers.linear import DegreeLinear, mlp
from pyscf_tracegrad.layers.norm import EquivariantNorm, Gate, degree_norms
from pyscf_tracegrad.o3 import o3


def gather_blocks(matrices: Tensor, ao_slots: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Padded blocks (n, fields, width, width) of atoms first, second (n,) from matrices (fields, nao, nao).

    ao_slots (n_atoms, width): AO index of each padded row, -1 (zeros in the block) where there is none.
    """
    padded = nn.functional.pad(matrices, (0, 1, 0, 1))  # the last row and column, index -1, are zero
    rows, columns = ao_slots[first][:, :, None], ao_slots[second][:, None, :]
    return padded[:, rows, columns].transpose(0, 1)


def scatter_blocks(site: Tensor, pair: Tensor, edge_index: Tensor, ao_slots: Tensor, nao: int) -> Tensor:
    """Symmetric matrix (nao, nao) of on-site (n_atoms, w, w) and pair blocks (n_edges, w, w); inverse of gathering."""
    slots = torch.where(ao_slots < 0, nao, ao_slots)
    i, j = edge_index
    matrix = site.new_zeros((nao + 1) * (nao + 1))
    for a, b, blocks in (
        (slots, slots, site),
        (slots[i], slots[j], pair),
        (slots[j], slots[i], pair.transpose(1, 2)),
    ):
        index = a[:, :, None] * (nao + 1) + b[:, None, :]
        matrix = matrix.index_add(0, index.reshape(-1), blocks.reshape(-1))
    return matrix.view(nao + 1, nao + 1)[:nao, :nao]


def start_at_zero(layers: Iterable[nn.Module]) -> None:
    """Start a decoder at zero: an untrained model then predicts F_ref, or the mean correction of its training set."""
    for layer in layers:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)


class PairEmbedding(nn.Module):
    """Components of pair blocks in a bond frame -> m-major features: (n, fields, width^2) -> (n, dim, channels).

    Zeros where there are no fields.
    """

    def __init__(self, basis: PairBasis, l_max: int, channels: int, fields: int) -> None:
        super().__init__()
        self.table = degrees(l_max)
        self.channels = channels
        self.sizes = basis.sizes
        self.maps = nn.ModuleList(
            nn.Linear(fields * basis.counts[m], self.table.count(m) * channels, bias=False)
            for m in range(l_max + 1)
            if fields and m in basis.counts
        )

    def forward(self, components: Tensor) -> Tensor:
        n = components.shape[0]
        if not self.maps:
            return components.new_zeros(n, self.table.dim, self.channels)
        even, _, *others = components.split(self.sizes, 2)
        out = [self.maps[0](even.flatten(1)).view(n, self.table.m_sizes[0], self.channels)]
        for linear, rows, other in zip(list(self.maps)[1:], self.table.m_sizes[1:], others, strict=False):
            part = other.unflatten(2, (2, -1)).transpose(1, 2)  # (n, cos/sin, fields, count)
            out.append(linear(part.flatten(2)).view(n, rows, self.channels))
        missing = self.table.dim - sum(part.shape[1] for part in out)  # no component of the blocks has so high an m
        return torch.cat([*out, components.new_zeros(n, missing, self.channels)], 1)


class PairDecoder(nn.Module):
    """m-major pair features (n, dim, channels) -> components of the pair block in standard units (n, width^2).

    The odd scalars are cross products cos sin' - sin cos' of features, which change sign under reflection.
    """

    def __init__(self, basis: PairBasis, l_max: int, channels: int, products: int = 16) -> None:
        super().__init__()
        self.table = degrees(l_max)
        self.maps = nn.ModuleList(
            nn.Linear(self.table.count(k) * channels, basis.counts[k], bias=k == 0)
            for k in sorted(k for k in basis.counts if 0 <= k <= l_max)
        )
        self.missing = sum(2 * basis.counts[k] for k in basis.counts if k > l_max)
        widths = [self.table.count(m) * channels for m in range(1, l_max + 1)]
        self.left = nn.ModuleList(nn.Linear(w, products, bias=False) for w in widths)
        self.right = nn.ModuleList(nn.Linear(w, products, bias=False) for w in widths)
        self.odd = nn.Linear(products * l_max, basis.counts[-1], bias=False)
        start_at_zero([*self.maps, self.odd])

    def forward(self, feature: Tensor) -> Tensor:
        scalars, *others = feature.split(self.table.m_sizes, 1)
        parts = [part.unflatten(1, (2, -1)).flatten(2) for part in others]
        crossed = []
        for part, left, right in zip(parts, self.left, self.right, strict=True):
            a, b = left(part), right(part)
            crossed.append(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
        out = [self.maps[0](scalars.flatten(1)), self.odd(0.1 * torch.cat(crossed, 1))]
        out += [linear(part).flatten(1) for linear, part in zip(list(self.maps)[1:], parts, strict=False)]
        if self.missing:
            out.append(feature.new_zeros(len(feature), self.missing))
        return torch.cat(out, 1)


class SiteEmbedding(nn.Module):
    """Natural-parity components of on-site blocks (n, fields, n_rows) -> degree-major features (n, dim, channels)."""

    def __init__(self, basis: SiteBasis, l_max: int, channels: int, fields: int) -> None:
        super().__init__()
        self.sizes = basis.sizes
        self.l_max, self.channels = l_max, channels
        self.place = {l: k for k, (l, natural, _) in enumerate(basis.groups) if fields and natural and l <= l_max}
        self.maps = nn.ModuleDict(
            {str(l): nn.Linear(fields * basis.groups[k][2], channels, bias=False) for l, k in self.place.items()}
        )

    def forward(self, components: Tensor) -> Tensor:
        n = components.shape[0]
        groups = components.split(self.sizes, 2)
        out = []
        for l in range(self.l_max + 1):
            if l not in self.place:
                out.append(components.new_zeros(n, 2 * l + 1, self.channels))
                continue
            part = groups[self.place[l]].unflatten(2, (-1, 2 * l + 1))  # (n, fields, channels, m)
            out.append(self.maps[str(l)](part.flatten(1, 2).transpose(1, 2)))
        return torch.cat(out, 1)


class SiteDecoder(nn.Module):
    """Degree-major on-site features (n, dim, channels) -> components in standard units (n, n_rows).

    A gated per-degree layer, then a linear map per irrep. Irreps of unnatural parity come from tensor products
    l1 x l2 -> L with l1 + l2 + L odd of the features with themselves.
    """

    def __init__(self, basis: SiteBasis, l_max: int, channels: int, embedding: int, products: int = 32) -> None:
        super().__init__()
        table = degrees(l_max)
        self.l_max, self.sizes = l_max, table.sizes
        self.norm = EquivariantNorm(l_max, channels)
        self.gate = Gate(l_max)
        self.gates = mlp((l_max + 1) * channels + embedding, 2 * channels, (l_max + 1) * 2 * channels)
        self.hidden = DegreeLinear(l_max, channels, 2 * channels)
        self.left, self.right = DegreeLinear(l_max, channels, products), DegreeLinear(l_max, channels, products)
        self.maps = nn.ModuleList()
        self.groups: list[tuple[int, bool]] = []
        self.paths: list[list[tuple[int, int, Constant]]] = []
        for l, natural, count in basis.groups:
            if l > l_max:
                raise ValueError(f"l_max = {l_max} is too small for an on-site block with degree {l}")
            self.groups.append((l, natural))
            self.paths.append([] if natural else self._odd_paths(l))
            width = 2 * channels if natural else products * len(self.paths[-1])
            self.maps.append(nn.Linear(width, count, bias=natural and l == 0))
        start_at_zero(self.maps)

    def _odd_paths(self, big: int) -> list[tuple[int, int, Constant]]:
        """Up to two couplings (l1, l2) -> big of odd l1 + l2 + big, with their Wigner-3j symbols."""
        paths: list[tuple[int, int, Constant]] = []
        for l1 in range(1, self.l_max + 1):
            for l2 in range(l1, self.l_max + 1):
                if (l1 + l2 + big) % 2 == 1 and l2 - l1 <= big <= l1 + l2 and len(paths) < 2:
                    paths.append((l1, l2, Constant(o3.wigner_3j(l1, l2, big, dtype=torch.float64))))
        return paths

    def forward(self, feature: Tensor, embedding: Tensor) -> Tensor:
        n = feature.shape[0]
        h = self.norm(feature)
        gates = self.gates(torch.cat([degree_norms(h, self.l_max), embedding], 1))
        y = self.gate(self.hidden(h), gates).split(self.sizes, 1)
        left, right = self.left(h).split(self.sizes, 1), self.right(h).split(self.sizes, 1)
        out = []
        for (l, natural), paths, linear in zip(self.groups, self.paths, self.maps, strict=True):
            source = y[l]
            if not natural:
                source = torch.cat(
                    [
                        torch.einsum("nac,nbc,abm->nmc", left[l1], right[l2], coupling(feature))
                        for l1, l2, coupling in paths
                    ],
                    2,
                )
            out.append(linear(source).transpose(1, 2).reshape(n, -1))
        return torch.cat(out, 1)
