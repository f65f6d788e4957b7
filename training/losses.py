"""Losses and errors of a batch.

    L = a1 MAE(dF) + a2 MSE(dF) + a3 ov + a4 rms(C^T dF C) + mu L_trace

with the label's orbitals C and energies e. R_ia = (C_occ^T dF C_vir)_ia / (e_a - e_i) is the first-order density error
and ov = rms(R). mu = lambda stopgrad(L_H / L_trace), L_H the other terms, L_trace = MAE of the traces (TraceGrad, eq.
7-8). Nothing back-propagates through a diagonalisation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch_geometric.data import Data

from pyscf_tracegrad.model import FockBlocks, FockModel, block_traces
from training.config import LossWeights
from training.dataset import model_input

# Losses are near 1e-3 hartree; AdamW does not mind, the gradient clipping does.
SCALE = 100.0


@dataclass(frozen=True)
class Errors:
    """Errors per molecule, each (n_molecules,): mae and mse of dF (hartree, hartree^2), ov (1), mo (hartree)."""

    mae: Tensor
    mse: Tensor
    ov: Tensor
    mo: Tensor


def assemble(site: Tensor, pair: Tensor, batch: Data) -> list[Tensor]:
    """Symmetric matrices (nao, nao) of each molecule of a batch from its on-site and pair blocks."""
    widths = batch.nao + 1  # one more row and column takes what padded slots hold
    starts = torch.cumsum(widths**2, 0) - widths**2
    molecule = batch.batch
    slots = torch.where(batch.ao_slots < 0, batch.nao[molecule][:, None], batch.ao_slots)
    i, j = batch.edge_index
    flat = site.new_zeros(int((widths**2).sum()))
    for first, a, b, blocks in (
        (torch.arange(len(slots), device=slots.device), slots, slots, site),
        (i, slots[i], slots[j], pair),
        (i, slots[j], slots[i], pair.transpose(1, 2)),
    ):
        owner = molecule[first]
        index = starts[owner][:, None, None] + a[:, :, None] * widths[owner][:, None, None] + b[:, None, :]
        flat = flat.index_add(0, index.reshape(-1), blocks.reshape(-1))
    sizes = widths.tolist()
    parts = flat.split([n * n for n in sizes])
    return [part.view(n, n)[:-1, :-1] for part, n in zip(parts, sizes, strict=True)]


def errors(blocks: FockBlocks, batch: Data) -> Errors:
    """Errors of predicted blocks of dF against the targets of a batch."""
    matrices = assemble(blocks.site - batch.target_site, blocks.pair - batch.target_pair, batch)
    sizes: list[int] = batch.nao.tolist()
    coefficients = batch.coefficients.split([n * n for n in sizes])
    energies = batch.energies.split(sizes)
    mae, mse, ov, mo = [], [], [], []
    for error, c, e, occupied in zip(matrices, coefficients, energies, batch.n_occupied.tolist(), strict=True):
        c = c.view(len(e), len(e))
        in_orbitals = c.T @ error @ c
        gaps = e[None, occupied:] - e[:occupied, None]
        mae.append(error.abs().mean())
        mse.append(error.square().mean())
        ov.append((in_orbitals[:occupied, occupied:] / gaps).square().mean().sqrt())
        mo.append(in_orbitals.square().mean().sqrt())
    return Errors(torch.stack(mae), torch.stack(mse), torch.stack(ov), torch.stack(mo))


def trace_loss(model: FockModel, blocks: FockBlocks, batch: Data) -> Tensor:
    """MAE between predicted and true traces of dF in standard units; what is predicted of on-site and pairs counts
    alike. 0 where nothing is.
    """
    with torch.no_grad():
        site, pair = model.standardise_target(model_input(batch), batch.target_site, batch.target_pair)
    found = [
        (predicted - block_traces(known, shell_pair, predicted.shape[1])).abs().mean()
        for predicted, known, shell_pair in (
            (blocks.site_traces, site, model.site_shell_pair(site)),
            (blocks.pair_traces, pair, model.pair_shell_pair(pair)),
        )
        if predicted is not None
    ]
    return torch.stack(found).mean() if found else blocks.site.new_zeros(())


def total_loss(model: FockModel, batch: Data, weights: LossWeights) -> tuple[Tensor, Errors, Tensor]:
    """Loss of a batch, its errors and its trace loss."""
    blocks = model(model_input(batch))
    found = errors(blocks, batch)
    terms = [getattr(weights, name) * getattr(found, name).mean() for name in ("mae", "mse", "ov", "mo")]
    loss = torch.stack(terms).sum()
    traces = trace_loss(model, blocks, batch)
    if weights.trace > 0 and traces.requires_grad:
        loss = loss + weights.trace * (loss / traces.clamp_min(1e-12)).detach() * traces
    return SCALE * loss, found, traces
