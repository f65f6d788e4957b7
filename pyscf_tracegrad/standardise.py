"""Standardisation of blocks: what element, element pair and distance alone say of a block, taken out beforehand.

On-site: per element the mean of the invariant components and the rms of every irrep. Pairs: per ordered element pair
and distance bin the mean of the even scalars and the rms of every component, linear in between bins. Nothing else may
be shifted, and a cosine and its sine share one rms: anything more would break equivariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pyscf_tracegrad.block_basis import PairBasis, SiteBasis

Array = NDArray[np.float64]

FIRST_BIN, BIN_WIDTH = 1.2, 0.6  # bohr


def n_bins(cutoff: float) -> int:
    """Number of distance bins that reach the cutoff (bohr)."""
    return int(np.ceil((cutoff - FIRST_BIN) / BIN_WIDTH)) + 2


@dataclass(frozen=True)
class Moments:
    """Moments of one kind of matrix (F_ref, a response, or dF) over a training set, hartree.

    site_mean (n_elements, n_scalars), site_rms (n_elements, n_irreps); pair_mean (n_elements^2, bins, n_even),
    pair_rms (n_elements^2, bins, n_distinct); the pair index is first element * n_elements + second.
    """

    site_mean: Array
    site_rms: Array
    pair_mean: Array
    pair_rms: Array

    def __post_init__(self) -> None:
        if not all((rms > 0).all() for rms in (self.site_rms, self.pair_rms)):
            raise ValueError("every rms must be positive")


class Standardiser(nn.Module):
    """Apply the moments of one kind of matrix to its components, both ways. Moments are buffers of the checkpoint."""

    def __init__(self, site: SiteBasis, pair: PairBasis, n_elements: int, cutoff: float) -> None:
        super().__init__()
        bins, irreps, distinct = n_bins(cutoff), site.distinct.max() + 1, pair.distinct.max() + 1
        self.register_buffer("site_mean", torch.zeros(n_elements, site.n_scalars))
        self.register_buffer("site_rms", torch.ones(n_elements, irreps))
        self.register_buffer("pair_mean", torch.zeros(n_elements**2, bins, pair.counts[0]))
        self.register_buffer("pair_rms", torch.ones(n_elements**2, bins, distinct))
        self.register_buffer("site_distinct", torch.as_tensor(site.distinct), persistent=False)
        self.register_buffer("pair_distinct", torch.as_tensor(pair.distinct), persistent=False)

    def load_moments(self, moments: Moments) -> None:
        """Take the moments of a training set."""
        for name in ("site_mean", "site_rms", "pair_mean", "pair_rms"):
            cast(Tensor, getattr(self, name)).copy_(torch.as_tensor(getattr(moments, name)))

    def site_forward(self, components: Tensor, element: Tensor) -> Tensor:
        """Hartree -> standard units; components (n_atoms, n), element (n_atoms,)."""
        return (components - self._site_mean(components, element)) / self._site_rms(element)

    def site_inverse(self, components: Tensor, element: Tensor) -> Tensor:
        """Standard units -> hartree."""
        return components * self._site_rms(element) + self._site_mean(components, element)

    def _site_mean(self, components: Tensor, element: Tensor) -> Tensor:
        mean = cast(Tensor, self.site_mean)[element]
        return nn.functional.pad(mean, (0, components.shape[1] - mean.shape[1]))

    def _site_rms(self, element: Tensor) -> Tensor:
        return cast(Tensor, self.site_rms)[element].index_select(1, cast(Tensor, self.site_distinct))

    def pair_forward(self, components: Tensor, bins: PairBins) -> Tensor:
        """Hartree -> standard units; components (n, width^2) of ordered pairs."""
        return (components - self._pair_mean(components, bins)) / self._pair_rms(bins)

    def pair_inverse(self, components: Tensor, bins: PairBins) -> Tensor:
        """Standard units -> hartree."""
        return components * self._pair_rms(bins) + self._pair_mean(components, bins)

    def _pair_mean(self, components: Tensor, bins: PairBins) -> Tensor:
        mean = bins.interpolate(cast(Tensor, self.pair_mean))
        return nn.functional.pad(mean, (0, components.shape[1] - mean.shape[1]))

    def _pair_rms(self, bins: PairBins) -> Tensor:
        return bins.interpolate(cast(Tensor, self.pair_rms)).index_select(1, cast(Tensor, self.pair_distinct))


@dataclass(frozen=True)
class PairBins:
    """Places of ordered pairs in a table (n_elements^2, bins, n): row, bin below, weight (n, 1) of the bin above."""

    row: Tensor
    below: Tensor
    weight: Tensor

    @classmethod
    def of(cls, first: Tensor, second: Tensor, distance: Tensor, n_elements: int, bins: int) -> PairBins:
        """Bins of pairs with elements first, second (n,) at a distance (n,) in bohr."""
        place = ((distance - FIRST_BIN) / BIN_WIDTH).clamp(0.0, bins - 1.001)
        below = place.long()
        return cls(first * n_elements + second, below, (place - below)[:, None])

    def interpolate(self, table: Tensor) -> Tensor:
        """Linear in between bins: (n, table.shape[2])."""
        return torch.lerp(table[self.row, self.below], table[self.row, self.below + 1], self.weight)
