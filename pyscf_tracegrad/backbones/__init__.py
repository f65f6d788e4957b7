"""Backbones: graph and reference -> components of dF. One module each, found by name.

A backbone module has a class `Backbone(nn.Module)` made by `Backbone(config, spec)`; called with a `BackboneInput`, it
gives `Components`. Its attributes `node_invariants` and `pair_invariants` are the numbers of invariants z that it gives
for an atom and for a pair, 0 where it gives none.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pyscf_tracegrad.block_basis import PairBasis, SiteBasis
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.layers.convolution import BondFrames


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone must know of the blocks: number of elements, degrees of the shells, bases of the blocks."""

    n_elements: int
    shells: tuple[int, ...]
    site: SiteBasis
    pair: PairBasis

    @property
    def n_shell_pairs(self) -> int:
        """Number of shell-pair sub-blocks of a block: the invariants z of one TraceGrad module."""
        return len(self.shells) ** 2


@dataclass(frozen=True)
class BackboneInput:
    """Graph and standardised reference of a batch.

    element (n_atoms,), charge (n_atoms,): net charge of the atom's molecule. frames: of the n_edges edges i < j.
    vectors (n_edges, 3): position of j less that of i, bohr. shell_rotation (n_edges, width, width): takes the rows of
    a block in the bond frame to global axes. site (n_atoms, fields, n_rows) and pair (2 n_edges, fields, width^2):
    components of the matrices that are input, in standard units; pairs are ordered, all i -> j first, then all j -> i.
    """

    element: Tensor
    charge: Tensor
    frames: BondFrames
    vectors: Tensor
    shell_rotation: Tensor
    site: Tensor
    pair: Tensor


@dataclass(frozen=True)
class Components:
    """Output of a backbone: dF in standard units, site (n_atoms, n_rows) and pair (2 n_edges, width^2).

    node_invariants (n_atoms, n), pair_invariants (2 n_edges, n): invariants z of TraceGrad, None where there are none.
    """

    site: Tensor
    pair: Tensor
    node_invariants: Tensor | None
    pair_invariants: Tensor | None


def known_backbones() -> tuple[str, ...]:
    """Names of the modules here."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def make_backbone(config: ModelConfig, spec: BackboneSpec) -> Any:
    """The backbone that `config.backbone` names. Raises ValueError for a name that has no module here.

    The name may come from a file that somebody sent: nothing but what is here is imported.
    """
    if config.backbone not in known_backbones():
        raise ValueError(f"no backbone {config.backbone!r} in {__name__}: there are {', '.join(known_backbones())}")
    return importlib.import_module(f"{__name__}.{config.backbone}").Backbone(config, spec)
