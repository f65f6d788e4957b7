"""Moments of a training set for the standardisation (`pyscf_tracegrad.standardise`)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from pyscf_tracegrad.block_basis import PairBasis, SiteBasis, pair_basis, site_basis
from pyscf_tracegrad.layers.degrees import block_diagonal, bond_rotations
from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.standardise import BIN_WIDTH, FIRST_BIN, Moments, n_bins

Array = NDArray[np.float64]

# Fewer samples than this and a bin is pooled with its neighbours, an element pair with all others.
_ENOUGH = 30
_SITE_FLOOR, _PAIR_FLOOR = 1e-4, 1e-5  # hartree; smallest rms, so that rare components do not blow up


class _Sums:
    """Count, sum and sum of squares of rows that fall into cells."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        self.count = np.zeros(shape)
        self.first, self.second = np.zeros((*shape, width)), np.zeros((*shape, width))

    def add(self, cells: tuple[NDArray[np.int64], ...], rows: Array) -> None:
        np.add.at(self.count, cells, 1.0)
        np.add.at(self.first, cells, rows)
        np.add.at(self.second, cells, rows**2)

    def moments(self, cell: tuple[int | slice, ...], n_mean: int, centred: bool) -> tuple[Array, Array]:
        """Mean of the first n_mean columns, 0 unless centred, and mean square about it, pooled over a cell (or a slice
        of cells).
        """
        axes = tuple(range(self.count[cell].ndim))
        count = max(self.count[cell].sum(), 1.0)
        mean = self.first[cell].sum(axis=axes) / count
        mean[n_mean if centred else 0 :] = 0.0
        return mean[:n_mean], np.maximum(self.second[cell].sum(axis=axes) / count - mean**2, 0.0)


def _pool(square: Array, distinct: NDArray[np.int64]) -> Array:
    """Mean over the components that share one rms, then the root."""
    total = np.bincount(distinct, square)
    return np.sqrt(np.asarray(total / np.bincount(distinct)))


def _site_moments(sums: _Sums, basis: SiteBasis, centred: bool) -> tuple[Array, Array]:
    n_elements = len(sums.count)
    mean = np.zeros((n_elements, basis.n_scalars))
    rms = np.ones((n_elements, basis.distinct.max() + 1))
    for element in range(n_elements):
        if sums.count[element] >= 2:
            mean[element], square = sums.moments((element,), basis.n_scalars, centred)
            rms[element] = _pool(square, basis.distinct)
    return mean, np.maximum(rms, _SITE_FLOOR)


def _pair_moments(sums: _Sums, basis: PairBasis, centred: bool) -> tuple[Array, Array]:
    n_kinds, bins = sums.count.shape
    even = basis.counts[0]
    mean = np.zeros((n_kinds, bins, even))
    rms = np.ones((n_kinds, bins, basis.distinct.max() + 1))
    for kind in range(n_kinds):
        kinds: int | slice = kind if sums.count[kind].sum() >= _ENOUGH else slice(None)
        for b in range(bins):
            for reach in range(bins):
                cell = (kinds, slice(max(0, b - reach), b + reach + 1))
                if sums.count[cell].sum() >= _ENOUGH or reach == bins - 1:
                    mean[kind, b], square = sums.moments(cell, even, centred)
                    rms[kind, b] = _pool(square, basis.distinct)
                    break
    return mean, np.maximum(rms, _PAIR_FLOOR)


def fit_standardisation(model: FockModel, data: Sequence[Data], batch_size: int = 16) -> None:
    """Set the moments of a model's inputs and output to those of a training set; without `centre` dF has no mean."""
    site, pair = site_basis(model.shells), pair_basis(model.shells)
    n = model.n_elements
    bins = n_bins(model.config.cutoff)
    fields = model.config.fields
    kinds = fields + 1  # the matrices that are input, and the target last
    site_sums = [_Sums((n,), len(site.distinct)) for _ in range(kinds)]
    pair_sums = [_Sums((n * n, bins), len(pair.distinct)) for _ in range(kinds)]
    with torch.no_grad():
        for batch in DataLoader(list(data), batch_size=batch_size):
            i, j = batch.edge_index
            vectors = batch.positions[j] - batch.positions[i]
            rotations = bond_rotations(vectors, max(model.shells))
            shell_rotation = block_diagonal([rotations[l] for l in model.shells]).to(model.dtype)
            site_blocks = torch.cat([batch.site[:, :fields], batch.target_site[:, None]], 1).to(model.dtype)
            pair_blocks = torch.cat([batch.pair[:, :fields], batch.target_pair[:, None]], 1).to(model.dtype)
            site_rows = model.projection.site(site_blocks)
            pair_rows = model.projection.pair(pair_blocks, shell_rotation)
            element = batch.element.numpy()
            kind = torch.cat([batch.element[i] * n + batch.element[j], batch.element[j] * n + batch.element[i]])
            place = ((vectors.norm(dim=1).repeat(2) - FIRST_BIN) / BIN_WIDTH).round().clamp(0, bins - 1)
            cells = (kind.numpy(), place.long().numpy())
            for k in range(kinds):
                site_sums[k].add((element,), site_rows[:, k].double().numpy())
                pair_sums[k].add(cells, pair_rows[:, k].double().numpy())
    for k, standardiser in enumerate([*model.inputs, model.output]):
        centred = model.config.centre or k < fields
        site_moments = _site_moments(site_sums[k], site, centred)
        standardiser.load_moments(Moments(*site_moments, *_pair_moments(pair_sums[k], pair, centred)))
