"""QHNet (Yu et al., ICML 2023, arXiv 2306.04922) written in bond frames, with TraceGrad.

The published tensor products with all harmonics of a bond become SO(2)-linear maps in its frame; parity is kept, which
the published network gives up. Blocks of the reference enter the nodes and the pairs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyscf_tracegrad.backbones import BackboneInput, BackboneSpec, Components
from pyscf_tracegrad.blocks import PairDecoder, PairEmbedding, SiteDecoder, SiteEmbedding
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.layers.convolution import BondConvolution, FrameFeatures, edge_scalars
from pyscf_tracegrad.layers.degrees import degrees
from pyscf_tracegrad.layers.linear import SO2Linear, mlp
from pyscf_tracegrad.layers.norm import EquivariantNorm, Gate
from pyscf_tracegrad.layers.tracegrad import TraceGrad

_PAIR_EMBEDDING = 16


def _tracegrad(config: ModelConfig, spec: BackboneSpec, in_bond_frame: bool) -> TraceGrad | None:
    """TraceGrad as the settings ask for it; none where nothing would come of it."""
    if not (config.gradient or config.traces):
        return None
    return TraceGrad(
        config.l_max, config.channels, config.invariants, spec.n_shell_pairs, in_bond_frame, config.gradient
    )


class Backbone(nn.Module):
    """Embedding of elements, charge and on-site blocks, message passing, pair features, decoders."""

    def __init__(self, config: ModelConfig, spec: BackboneSpec) -> None:
        super().__init__()
        l_max, channels = config.l_max, config.channels
        self.irreps_out = degrees(l_max).irreps(channels)
        self.element = nn.Embedding(spec.n_elements, channels)
        self.charge = nn.Linear(1, channels, bias=False)
        self.site = SiteEmbedding(spec.site, l_max, channels, config.fields)
        self.layers = nn.ModuleList(BondConvolution(l_max, channels, config.radial) for _ in range(config.layers))
        self.pair = PairFeatures(config, spec)
        self.node_tracegrad = _tracegrad(config, spec, in_bond_frame=False)
        self.decoder_element = nn.Embedding(spec.n_elements, channels)
        self.site_decoder = SiteDecoder(spec.site, l_max, channels, channels)
        self.pair_decoder = PairDecoder(spec.pair, l_max, channels)
        self.node_invariants = self.pair_invariants = 0 if self.node_tracegrad is None else spec.n_shell_pairs

    def forward(self, inputs: BackboneInput) -> Components:
        x = self.site(inputs.site)
        scalars = x[:, :1] + self.element(inputs.element)[:, None] + self.charge(inputs.charge[:, None])[:, None]
        x = torch.cat([scalars, x[:, 1:]], 1)
        for layer in self.layers:
            x = layer(x, inputs.frames)
        pair, pair_invariants = self.pair(x, inputs)
        node_invariants = None
        if self.node_tracegrad is not None:
            x, node_invariants = self.node_tracegrad(x)
        site = self.site_decoder(x, self.decoder_element(inputs.element))
        return Components(site, self.pair_decoder(pair), node_invariants, pair_invariants)


class PairFeatures(nn.Module):
    """QHNet's pair layers: both ends and reference blocks in the bond frame, gate, TraceGrad, SO(2)-linear, gate."""

    def __init__(self, config: ModelConfig, spec: BackboneSpec) -> None:
        super().__init__()
        l_max, channels = config.l_max, config.channels
        self.n_elements = spec.n_elements
        self.elements = nn.Embedding(spec.n_elements**2, _PAIR_EMBEDDING)
        self.node_norm = EquivariantNorm(l_max, channels)
        self.gather = FrameFeatures(l_max)
        self.gate = Gate(l_max, m_major=True)
        self.ends = SO2Linear(l_max, 2 * channels, channels)
        self.blocks = PairEmbedding(spec.pair, l_max, channels, config.fields)
        scalars = config.radial + 2 * channels + _PAIR_EMBEDDING + channels
        self.norm_in, self.norm_out = (EquivariantNorm(l_max, channels, m_major=True) for _ in range(2))
        self.gates_in, self.gates_out = (mlp(scalars, 2 * channels, (l_max + 1) * channels) for _ in range(2))
        self.mix = SO2Linear(l_max, channels, channels)
        self.tracegrad = _tracegrad(config, spec, in_bond_frame=True)

    def forward(self, x: Tensor, inputs: BackboneInput) -> tuple[Tensor, Tensor | None]:
        """Pair features (2 n_edges, dim, channels), m-major, and the invariants of TraceGrad."""
        h = self.node_norm(x)
        i, j = inputs.frames.edge_index
        first, second = torch.cat([i, j]), torch.cat([j, i])
        kind = self.elements(inputs.element[first] * self.n_elements + inputs.element[second])
        scalars = torch.cat([edge_scalars(h, inputs.frames), kind], 1)
        feature = self.norm_in(self.ends(self.gather(h, inputs.frames)) + self.blocks(inputs.pair))
        feature = self.gate(feature, self.gates_in(torch.cat([scalars, feature[:, 0]], 1)))
        invariants = None
        if self.tracegrad is not None:
            feature, invariants = self.tracegrad(feature)
        h = self.norm_out(feature)
        gates = self.gates_out(torch.cat([scalars, h[:, 0]], 1))
        return feature + self.gate(self.mix(h), gates), invariants
