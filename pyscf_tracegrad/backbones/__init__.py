"""Backbones: graph and reference -> node and pair features. One module each, found by name.

A backbone module has a class `Backbone(nn.Module)` made by `Backbone(config, spec)`; called with a `BackboneInput`, it
gives `Features`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyscf_tracegrad.block_basis import PairBasis, SiteBasis
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.layers.convolution import BondFrames


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone must know of the blocks: number of elements, of input matrices, and the bases of the blocks."""

    n_elements: int
    fields: int
    site: SiteBasis
    pair: PairBasis
    n_shell_pairs: int


@dataclass(frozen=True)
class BackboneInput:
    """Graph and standardised reference of a batch.

    element (n_atoms,), charge (n_atoms,): net charge of the atom's molecule; frames of the n_edges edges i < j;
    site (n_atoms, fields, n_rows) and pair (2 n_edges, fields, width^2): components of F_ref and of the responses in
    standard units; pairs are ordered, all i -> j first, then all j -> i.
    """

    element: Tensor
    charge: Tensor
    frames: BondFrames
    site: Tensor
    pair: Tensor


@dataclass(frozen=True)
class Features:
    """Output of a backbone: node (n_atoms, dim, channels), degree-major; pair (2 n_edges, dim, channels), m-major.

    node_invariants, pair_invariants: z of TraceGrad, one per shell pair, or None without TraceGrad.
    """

    node: Tensor
    pair: Tensor
    node_invariants: Tensor | None
    pair_invariants: Tensor | None


def make_backbone(config: ModelConfig, spec: BackboneSpec) -> Any:
    """The backbone that `config.backbone` names. Raises ValueError for a name that has no module here."""
    name = f"{__name__}.{config.backbone}"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(f"no backbone {config.backbone!r} in {__name__}") from None
    return module.Backbone(config, spec)
