"""Blocks <-> their components in the bases of `block_basis`: on-site by irreps, pairs in their bond frames."""

from __future__ import annotations

import torch
from torch import Tensor

from pyscf_tracegrad.block_basis import PairBasis, SiteBasis
from pyscf_tracegrad.layers.constant import Constant


class BlockProjection:
    """Orthogonal maps between padded blocks (width, width), global axes, and components. Has no parameters.

    shell_rotation (n_edges, width, width) takes rows in the bond frame to global axes. Pairs have components for both
    directions: all i -> j first, then all j -> i, from one block (of i, j).
    """

    def __init__(self, site: SiteBasis, pair: PairBasis) -> None:
        self.width = round(pair.forward.shape[1] ** 0.5)
        self._site = Constant(site.matrices)
        self._forward, self._reverse = Constant(pair.forward), Constant(pair.reverse)

    def site(self, blocks: Tensor) -> Tensor:
        """Components (n_atoms, fields, n_rows) of on-site blocks (n_atoms, fields, width, width)."""
        flat = blocks.flatten(2)
        return flat @ self._site(flat).T

    def pair(self, blocks: Tensor, shell_rotation: Tensor) -> Tensor:
        """Components (2 n_edges, fields, width^2) of pair blocks (n_edges, fields, width, width), both directions."""
        rotation = shell_rotation[:, None]
        local = (rotation.transpose(2, 3) @ blocks @ rotation).flatten(2)
        return torch.cat([local @ self._forward(local).T, local @ self._reverse(local).T], 0)

    def site_blocks(self, components: Tensor) -> Tensor:
        """On-site blocks (n_atoms, width, width) of components (n_atoms, n_rows)."""
        return (components @ self._site(components)).view(-1, self.width, self.width)

    def pair_blocks(self, components: Tensor, shell_rotation: Tensor, envelope: Tensor) -> Tensor:
        """Pair blocks (n_edges, width, width) times an envelope (n_edges,) of components (2 n_edges, width^2).

        The mean of both directions, so that H_ji = H_ij^T.
        """
        forward, reverse = components.chunk(2)
        local = forward @ self._forward(components) + reverse @ self._reverse(components)
        local = (0.5 * envelope[:, None] * local).view(-1, self.width, self.width)
        return shell_rotation @ local @ shell_rotation.transpose(1, 2)
