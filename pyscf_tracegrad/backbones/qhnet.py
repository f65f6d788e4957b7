"""QHNet (Yu et al., ICML 2023, arXiv 2306.04922) as published for QH9, with parity kept, and TraceGrad.

Written from the papers and a description of the network. `ModelConfig` gives the sizes; the published ones are 128
channels, 5 layers, 16 radial functions and a cutoff of 15 Angstrom. `message_scale` is not used. At these sizes,
without TraceGrad and with inputs 'none', it has 19,989,661 parameters. The authors' code has 20,415,673, of which
250,396 never get a gradient and are left out here: 20,165,277. The other 175,616 are these differences:

* Parity. The authors relabel the pair and on-site features as even, so that a molecule and its mirror image get
  different energies. Here they carry 0e 1o 2e 3o 4e and the unnatural irreps that blocks need: 1e (p-p, d-d), 2o (p-d)
  and 3e (d-d). Products of node features have 59 paths instead of 65, hence fewer weights: -396,288. Linear maps of
  these features have 8 irreps instead of 5: +221,184. In the norm gate both parities of a degree share norm and gate,
  so that it keeps its size.
* The embedding has a row for each element of the shell table (5), not 10: -640. The charge is a scalar of the atoms:
  +128.
* No number of parameters changes with these: weights of messages see the scalars of both ends (the authors take
  one end's twice, by their own account a mistake); the root in a norm has a finite gradient at zero; the output is the
  correction in standard units, and starts at zero; pairs beyond the cutoff are left out instead of getting what
  biases give; edges i < j are the input, and what does not depend on their direction is computed once.

Where the reference is an input (`inputs` other than 'none'), its on-site blocks are added to the atoms' embedding,
so that the first layer is like the others, and its pair blocks come in before the gate of the first pair layer.

On-site blocks are M + M^T. It takes with it what of the on-site expansion is antisymmetric (d-d 1e and 3e, p-p 1e
within one shell), as published: these few weights of the hyper-network get no gradient.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from pyscf_tracegrad.backbones import BackboneInput, BackboneSpec, Components
from pyscf_tracegrad.blocks import SiteEmbedding
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.layers.bernstein import BernsteinBasis
from pyscf_tracegrad.layers.constant import Constant
from pyscf_tracegrad.layers.element_weights import ElementWeights
from pyscf_tracegrad.layers.expansion import BlockCouplings, BlockEmbedding, Expansion, block_couplings
from pyscf_tracegrad.layers.qhnet import Edges, PairLayer, QHConvolution, SelfLayer, edge_harmonics
from pyscf_tracegrad.layers.rows import Rows
from pyscf_tracegrad.layers.tracegrad import TraceGrad
from pyscf_tracegrad.projection import BlockProjection

_BLOCK_LAYERS = 2  # pair and self layers follow that many of the last convolutions


class Backbone(nn.Module):
    """Embedding, convolutions, pair and self layers after the last two, expansion with weights by element."""

    node_invariants = 0

    def __init__(self, config: ModelConfig, spec: BackboneSpec) -> None:
        super().__init__()
        l_max, channels, fields = config.l_max, config.channels, config.fields
        couplings = block_couplings(spec.shells, l_max)
        nodes, rows = Rows(l_max), couplings.rows
        self.l_max, self.n_block_layers = l_max, min(_BLOCK_LAYERS, config.layers)
        self.element = nn.Embedding(spec.n_elements, channels)
        self.charge = nn.Linear(1, channels, bias=False)
        self.site = SiteEmbedding(spec.site, l_max, channels, fields) if fields else None
        self.pair_input = PairInput(spec, couplings, channels, fields) if fields else None
        self.radial = BernsteinBasis(config.radial, config.cutoff)
        first = nodes if fields else Rows(0)
        self.convolutions = nn.ModuleList(
            QHConvolution(nodes if k else first, nodes, channels, config.radial) for k in range(config.layers)
        )
        repeats = range(self.n_block_layers)
        self.self_layers = nn.ModuleList(SelfLayer(nodes, rows, channels) for _ in repeats)
        self.pair_layers = nn.ModuleList(PairLayer(nodes, rows, channels, config.radial) for _ in repeats)
        self.tracegrads = nn.ModuleList(
            TraceGrad(l_max, channels, config.invariants, spec.n_shell_pairs, False, config.gradient, rows.unnatural)
            for _ in repeats
            if config.gradient or config.traces
        )
        self.pair_invariants = len(self.tracegrads) * spec.n_shell_pairs
        self.decoder = Decoder(spec, couplings, channels)

    def forward(self, inputs: BackboneInput) -> Components:
        edges = self._edges(inputs)
        scalars = (self.element(inputs.element) + self.charge(inputs.charge[:, None]))[:, None]
        x = scalars
        if self.site is not None:
            given = self.site(inputs.site)
            x = torch.cat([given[:, :1] + scalars, given[:, 1:]], 1)
        blocks = None if self.pair_input is None else self.pair_input(inputs.pair, inputs.shell_rotation)
        site: Tensor | None = None
        pair: Tensor | None = None
        invariants: list[Tensor] = []
        start = len(self.convolutions) - self.n_block_layers
        for k, convolution in enumerate(self.convolutions):
            x = convolution(x, edges)
            if k < start:
                continue
            site = self.self_layers[k - start](x, site)
            pair = self.pair_layers[k - start](x, edges, pair, blocks if k == start else None)
            if self.tracegrads:
                pair, z = self.tracegrads[k - start](pair)
                invariants.append(z)
        found = self.decoder(cast(Tensor, site), cast(Tensor, pair), self.element.weight, inputs)
        return Components(found[0], found[1], None, torch.cat(invariants, 1) if invariants else None)

    def _edges(self, inputs: BackboneInput) -> Edges:
        i, j = inputs.frames.edge_index
        radial = self.radial(inputs.vectors.norm(dim=1))
        return Edges(i, j, radial, edge_harmonics(inputs.vectors, self.l_max))


class PairInput(nn.Module):
    """Pair blocks of the reference, as components (2 n_edges, fields, width^2), to features of both directions."""

    def __init__(self, spec: BackboneSpec, couplings: BlockCouplings, channels: int, fields: int) -> None:
        super().__init__()
        self.width = couplings.width
        self._bases = Constant(spec.pair.forward), Constant(spec.pair.reverse)
        self.embedding = BlockEmbedding(couplings, channels, fields)

    def forward(self, components: Tensor, shell_rotation: Tensor) -> Tensor:
        rotation = shell_rotation[:, None]
        there, back = (
            rotation @ (part @ basis(part)).unflatten(2, (self.width, self.width)) @ rotation.transpose(2, 3)
            for part, basis in zip(components.chunk(2), self._bases, strict=True)
        )
        return cast(Tensor, self.embedding(torch.cat([there, back.transpose(2, 3)], 0)))


class Decoder(nn.Module):
    """Features -> symmetric blocks in standard units and global axes -> components, site and pair.

    H_ii = M_ii + M_ii^T and H_ij = M_ij + M_ji^T, where M_ij is the expansion of the feature with dst = i, src = j.
    """

    def __init__(self, spec: BackboneSpec, couplings: BlockCouplings, channels: int) -> None:
        super().__init__()
        self.projection = BlockProjection(spec.site, spec.pair)
        self.site, self.pair = Expansion(couplings, channels), Expansion(couplings, channels)
        sizes = self.site.n_weights, self.site.n_biases
        self.site_weights, self.pair_weights = (ElementWeights(ends, channels, *sizes) for ends in (1, 2))

    def forward(self, site: Tensor, pair: Tensor, embedding: Tensor, inputs: BackboneInput) -> tuple[Tensor, Tensor]:
        element, (i, j) = inputs.element, inputs.frames.edge_index
        ends = torch.stack([element[torch.cat([i, j])], element[torch.cat([j, i])]], 1)
        m_site = self.site(site, self.site_weights(embedding, element[:, None]))
        m_pair, m_back = self.pair(pair, self.pair_weights(embedding, ends)).chunk(2)
        h_site, h_pair = m_site + m_site.transpose(1, 2), m_pair + m_back.transpose(1, 2)
        found_pair = self.projection.pair(h_pair[:, None], inputs.shell_rotation)[:, 0]
        return self.projection.site(h_site[:, None])[:, 0], found_pair
