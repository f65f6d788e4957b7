"""FockModel: graph and reference -> correction dF in blocks. The one core that training and inference share.

torch and e3nn only; PySCF objects and files stay outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from pyscf_tracegrad.backbones import BackboneInput, BackboneSpec, make_backbone
from pyscf_tracegrad.block_basis import pair_basis, site_basis
from pyscf_tracegrad.blocks import PairDecoder, SiteDecoder
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.layers.constant import Constant
from pyscf_tracegrad.layers.convolution import BondFrames
from pyscf_tracegrad.layers.degrees import block_diagonal, bond_rotations, degrees
from pyscf_tracegrad.layers.radial import RadialBasis, smooth_cutoff
from pyscf_tracegrad.standardise import PairBins, Standardiser, n_bins


@dataclass(frozen=True)
class ModelInput:
    """A molecule, or a batch of them as one graph without edges in between.

    element (n_atoms,) int64: position in the shell table. charge (n_atoms,): net charge of the atom's molecule.
    positions (n_atoms, 3): bohr. edge_index (2, n_edges): i < j. site (n_atoms, fields, width, width) and pair
    (n_edges, fields, width, width): blocks of F_ref and of the responses, hartree, network order.
    """

    element: Tensor
    charge: Tensor
    positions: Tensor
    edge_index: Tensor
    site: Tensor
    pair: Tensor

    def __post_init__(self) -> None:
        n_atoms, n_edges = len(self.element), self.edge_index.shape[1]
        if self.positions.shape != (n_atoms, 3) or self.charge.shape != (n_atoms,):
            raise ValueError(f"positions {tuple(self.positions.shape)} or charges do not fit {n_atoms} atoms")
        if self.site.shape[0] != n_atoms or self.pair.shape[0] != n_edges or self.site.shape[1:] != self.pair.shape[1:]:
            raise ValueError(
                f"blocks {tuple(self.site.shape)}, {tuple(self.pair.shape)} do not fit {n_atoms} atoms, {n_edges} edges"
            )


@dataclass(frozen=True)
class FockBlocks:
    """Predicted correction dF.

    site (n_atoms, width, width) and pair (n_edges, width, width): hartree, network order.
    site_components, pair_components: the same in standard units, (n_atoms, n_rows) and (2 n_edges, width^2).
    site_traces, pair_traces: predicted tr(H_pq H_pq^T) per shell pair in standard units, None without TraceGrad.
    """

    site: Tensor
    pair: Tensor
    site_components: Tensor
    pair_components: Tensor
    site_traces: Tensor | None
    pair_traces: Tensor | None


def block_traces(components: Tensor, shell_pair: Tensor, n_pairs: int) -> Tensor:
    """tr(H_pq H_pq^T) (n, n_pairs) of each shell-pair sub-block from orthonormal components (n, n_rows)."""
    return components.new_zeros(len(components), n_pairs).index_add(1, shell_pair, components.square())


class TraceDecoder(nn.Sequential):
    """Four-layer invariant decoder of TraceGrad: z (n, Z) -> traces (n, Z)."""

    def __init__(self, outputs: int, hidden: int) -> None:
        layers: list[nn.Module] = []
        for c_in in (outputs, hidden, hidden):
            layers += [nn.Linear(c_in, hidden), nn.LayerNorm(hidden), nn.SiLU()]
        super().__init__(*layers, nn.Linear(hidden, outputs))


class FockModel(nn.Module):
    """dF = F - F_ref in blocks, O(3)-equivariant and symmetric by construction.

    shells: degrees of the padded shells, (0, 0, 0, 1, 1, 2) for def2-SVP; n_elements: rows of the shell table.
    """

    def __init__(self, config: ModelConfig, shells: tuple[int, ...], n_elements: int) -> None:
        super().__init__()
        self.config, self.shells, self.n_elements = config, shells, n_elements
        self.width = sum(2 * l + 1 for l in shells)
        self.fields = 1 + config.reference.n_responses
        site, pair = site_basis(shells), pair_basis(shells)
        self._site_basis = Constant(site.matrices)
        self._pair_basis, self._pair_basis_reverse = Constant(pair.forward), Constant(pair.reverse)
        self._shell_pairs = torch.as_tensor(site.shell_pair), torch.as_tensor(pair.shell_pair)
        z = len(shells) ** 2
        spec = BackboneSpec(n_elements, self.fields, site, pair, z)
        self.inputs = nn.ModuleList(Standardiser(site, pair, n_elements, config.cutoff) for _ in range(self.fields))
        self.output = Standardiser(site, pair, n_elements, config.cutoff)
        self.radial = RadialBasis(config.radial, config.cutoff)
        self.backbone = make_backbone(config, spec)
        self.element = nn.Embedding(n_elements, config.channels)
        self.site_decoder = SiteDecoder(site, config.l_max, config.channels, config.channels)
        self.pair_decoder = PairDecoder(pair, config.l_max, config.channels)
        self.site_trace = TraceDecoder(z, config.trace_hidden) if config.tracegrad else None
        self.pair_trace = TraceDecoder(z, config.trace_hidden) if config.tracegrad else None

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return self.element.weight.dtype

    def forward(self, inputs: ModelInput) -> FockBlocks:
        """Blocks of dF for a molecule or a batch."""
        frames, shell_rotation, bins = self._geometry(inputs)
        site = self.site_components(inputs.site)
        pair = self.pair_components(inputs.pair, shell_rotation)
        scaled_site = [s.site_forward(site[:, k], inputs.element) for k, s in enumerate(self._inputs())]
        scaled_pair = [s.pair_forward(pair[:, k], bins) for k, s in enumerate(self._inputs())]
        charge = inputs.charge.to(self.dtype)
        features = self.backbone(
            BackboneInput(inputs.element, charge, frames, torch.stack(scaled_site, 1), torch.stack(scaled_pair, 1))
        )
        site_out = self.site_decoder(features.node, self.element(inputs.element))
        pair_out = self.pair_decoder(features.pair)
        return FockBlocks(
            self._site_blocks(site_out, inputs.element),
            self._pair_blocks(pair_out, bins, shell_rotation, frames.envelope_out),
            site_out,
            pair_out,
            None if self.site_trace is None else self.site_trace(features.node_invariants),
            None if self.pair_trace is None else self.pair_trace(features.pair_invariants),
        )

    def _inputs(self) -> list[Standardiser]:
        return [cast(Standardiser, s) for s in self.inputs]

    def _geometry(self, inputs: ModelInput) -> tuple[BondFrames, Tensor, PairBins]:
        """Bond frames, the rotation of a block's shells (n_edges, width, width), bins of all ordered pairs."""
        i, j = inputs.edge_index
        vectors = inputs.positions[j] - inputs.positions[i]
        distance = vectors.norm(dim=1)
        rotations = [d.to(self.dtype) for d in bond_rotations(vectors, max(self.config.l_max, *self.shells))]
        l_max = self.config.l_max
        rotation = block_diagonal(rotations[: l_max + 1], degrees(l_max).m_major)
        shell_rotation = block_diagonal([rotations[l] for l in self.shells])
        distance = distance.to(self.dtype)
        messages = torch.exp(-((distance / self.config.message_scale) ** 2))
        envelope = smooth_cutoff(distance, self.config.cutoff)
        frames = BondFrames(inputs.edge_index, rotation, self.radial(distance), messages * envelope, envelope)
        first, second = inputs.element[torch.cat([i, j])], inputs.element[torch.cat([j, i])]
        bins = PairBins.of(first, second, distance.repeat(2), self.n_elements, n_bins(self.config.cutoff))
        return frames, shell_rotation, bins

    def site_components(self, blocks: Tensor) -> Tensor:
        """Components (n_atoms, fields, n_rows), hartree, of on-site blocks (n_atoms, fields, width, width)."""
        flat = blocks.to(self.dtype).flatten(2)
        return flat @ self._site_basis(flat).T

    def pair_components(self, blocks: Tensor, shell_rotation: Tensor) -> Tensor:
        """Components (2 n_edges, fields, width^2), hartree, of pair blocks in both directions of their frames."""
        rotation = shell_rotation[:, None]
        local = (rotation.transpose(2, 3) @ blocks.to(self.dtype) @ rotation).flatten(2)
        return torch.cat([local @ self._pair_basis(local).T, local @ self._pair_basis_reverse(local).T], 0)

    def standardise_target(self, inputs: ModelInput, site: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Components in standard units of known blocks of dF, as in `FockBlocks`, for the trace loss."""
        _, shell_rotation, bins = self._geometry(inputs)
        pair_components = self.pair_components(pair[:, None], shell_rotation)[:, 0]
        site_components = self.site_components(site[:, None])[:, 0]
        return (
            self.output.site_forward(site_components, inputs.element),
            self.output.pair_forward(pair_components, bins),
        )

    def site_shell_pair(self, like: Tensor) -> Tensor:
        """Shell pair (first * n_shells + second) of each on-site component, on the device of `like`."""
        return self._shell_pairs[0].to(like.device)

    def pair_shell_pair(self, like: Tensor) -> Tensor:
        """Shell pair of each pair component, on the device of `like`."""
        return self._shell_pairs[1].to(like.device)

    def trace_mismatch(self, blocks: FockBlocks) -> float:
        """Mean difference between predicted traces and the traces of the predicted blocks, over the mean of the latter.

        0 for a model without TraceGrad. On-site and pair blocks count alike.
        """
        if blocks.site_traces is None or blocks.pair_traces is None:
            return 0.0
        n = blocks.site_traces.shape[1]
        found = []
        for predicted, components, shell_pair in (
            (blocks.site_traces, blocks.site_components, self.site_shell_pair(blocks.site_components)),
            (blocks.pair_traces, blocks.pair_components, self.pair_shell_pair(blocks.pair_components)),
        ):
            if len(components):
                traces = block_traces(components, shell_pair, n)
                found.append(float((predicted - traces).abs().mean() / traces.mean().clamp_min(1e-12)))
        return sum(found) / len(found)

    def _site_blocks(self, components: Tensor, element: Tensor) -> Tensor:
        blocks = self.output.site_inverse(components, element) @ self._site_basis(components)
        return blocks.view(-1, self.width, self.width)

    def _pair_blocks(self, components: Tensor, bins: PairBins, shell_rotation: Tensor, envelope: Tensor) -> Tensor:
        """Mean of both directions, so that H_ji = H_ij^T, rotated to global axes."""
        forward, reverse = self.output.pair_inverse(components, bins).chunk(2)
        local = forward @ self._pair_basis(components) + reverse @ self._pair_basis_reverse(components)
        local = (0.5 * envelope[:, None] * local).view(-1, self.width, self.width)
        return shell_rotation @ local @ shell_rotation.transpose(1, 2)
