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
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.layers.convolution import BondFrames
from pyscf_tracegrad.layers.degrees import block_diagonal, bond_rotations, degrees
from pyscf_tracegrad.layers.radial import RadialBasis, smooth_cutoff
from pyscf_tracegrad.projection import BlockProjection
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
    site_traces, pair_traces: predicted tr(H_pq H_pq^T) per shell pair in standard units, None where not predicted.
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
    """Four-layer invariant decoder of TraceGrad: z (n, inputs) of all modules -> traces (n, outputs)."""

    def __init__(self, inputs: int, outputs: int, hidden: int) -> None:
        layers: list[nn.Module] = []
        for c_in in (inputs, hidden, hidden):
            layers += [nn.Linear(c_in, hidden), nn.LayerNorm(hidden), nn.SiLU()]
        super().__init__(*layers, nn.Linear(hidden, outputs))


class FockModel(nn.Module):
    """dF = F - F_ref in blocks, O(3)-equivariant and symmetric by construction.

    shells: degrees of the padded shells, (0, 0, 0, 1, 1, 2) for def2-SVP; n_elements: rows of the shell table.
    """

    def __init__(self, config: ModelConfig, shells: tuple[int, ...], n_elements: int) -> None:
        super().__init__()
        self.config, self.shells, self.n_elements = config, shells, n_elements
        site, pair = site_basis(shells), pair_basis(shells)
        self.projection = BlockProjection(site, pair)
        self._shell_pairs = torch.as_tensor(site.shell_pair), torch.as_tensor(pair.shell_pair)
        spec = BackboneSpec(n_elements, shells, site, pair)
        self.inputs = nn.ModuleList(Standardiser(site, pair, n_elements, config.cutoff) for _ in range(config.fields))
        self.output = Standardiser(site, pair, n_elements, config.cutoff)
        self.radial = RadialBasis(config.radial, config.cutoff)
        self.backbone = make_backbone(config, spec)
        self.site_trace = self._trace_decoder(self.backbone.node_invariants, spec)
        self.pair_trace = self._trace_decoder(self.backbone.pair_invariants, spec)

    def _trace_decoder(self, invariants: int, spec: BackboneSpec) -> TraceDecoder | None:
        if not self.config.traces or not invariants:
            return None
        return TraceDecoder(invariants, spec.n_shell_pairs, self.config.trace_hidden)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the parameters."""
        return next(self.parameters()).dtype

    def forward(self, inputs: ModelInput) -> FockBlocks:
        """Blocks of dF for a molecule or a batch."""
        frames, shell_rotation, bins = self._geometry(inputs)
        i, j = inputs.edge_index
        fields = self.config.fields
        site = self.projection.site(inputs.site[:, :fields].to(self.dtype))
        pair = self.projection.pair(inputs.pair[:, :fields].to(self.dtype), shell_rotation)
        for k, standardiser in enumerate(self._inputs()):
            site[:, k] = standardiser.site_forward(site[:, k], inputs.element)
            pair[:, k] = standardiser.pair_forward(pair[:, k], bins)
        found = self.backbone(
            BackboneInput(
                element=inputs.element,
                charge=inputs.charge.to(self.dtype),
                frames=frames,
                vectors=(inputs.positions[j] - inputs.positions[i]).to(self.dtype),
                shell_rotation=shell_rotation,
                site=site,
                pair=pair,
            )
        )
        site_out = self.output.site_inverse(found.site, inputs.element)
        pair_out = self.output.pair_inverse(found.pair, bins)
        return FockBlocks(
            self.projection.site_blocks(site_out),
            self.projection.pair_blocks(pair_out, shell_rotation, frames.envelope_out),
            found.site,
            found.pair,
            None if self.site_trace is None else self.site_trace(found.node_invariants),
            None if self.pair_trace is None else self.pair_trace(found.pair_invariants),
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

    def standardise_target(self, inputs: ModelInput, site: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        """Components in standard units of known blocks of dF, as in `FockBlocks`, for the trace loss."""
        _, shell_rotation, bins = self._geometry(inputs)
        site_components = self.projection.site(site[:, None].to(self.dtype))[:, 0]
        pair_components = self.projection.pair(pair[:, None].to(self.dtype), shell_rotation)[:, 0]
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

        0 for a model that predicts none. On-site and pair blocks count alike.
        """
        found = []
        for predicted, components, shell_pair in (
            (blocks.site_traces, blocks.site_components, self.site_shell_pair(blocks.site_components)),
            (blocks.pair_traces, blocks.pair_components, self.pair_shell_pair(blocks.pair_components)),
        ):
            if predicted is not None and len(components):
                traces = block_traces(components, shell_pair, predicted.shape[1])
                found.append(float((predicted - traces).abs().mean() / traces.mean().clamp_min(1e-12)))
        return sum(found) / len(found) if found else 0.0
