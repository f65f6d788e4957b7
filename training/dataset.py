"""Labels and references -> torch-geometric data, made once and kept in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pyscf import lib
from torch_geometric.data import Data
from tqdm import tqdm

from pyscf_tracegrad.blocks import gather_blocks
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.density import diagonalise
from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.model import ModelInput
from pyscf_tracegrad.orbitals import ShellTable
from pyscf_tracegrad.reference import Reference
from training.labels import Label, LabelFile, Theory
from training.references import CACHE, cache_folder, cached_reference


class FockData(Data):
    """One molecule. What the model takes (`model_input`), and for the loss:

    target_site (n_atoms, w, w), target_pair (n_edges, w, w): blocks of F - F_ref, hartree. ao_slots (n_atoms, w): AO
    index in the molecule's own matrix, -1 for none. nao, n_occupied (1,). coefficients (nao*nao,), energies (nao,):
    orbitals of the label, row-major, PySCF AO order, hartree.
    """

    def __inc__(self, key: str, value: Any, *args: Any) -> Any:
        return 0 if key == "ao_slots" else super().__inc__(key, value, *args)


def model_input(data: Data) -> ModelInput:
    """The part of a molecule or batch that the model takes."""
    return ModelInput(data.element, data.charge, data.positions, data.edge_index, data.site, data.pair)


def make_data(label: Label, reference: Reference, table: ShellTable, model: ModelConfig, basis: str) -> FockData:
    """Tensors of one labelled molecule, float32 (positions float64)."""
    mol = label.molecule(basis)
    graph = molecule_graph(mol, table, model.cutoff)
    fock = label.full_fock()
    orbitals = diagonalise(fock, reference.overlap)
    slots, edges = torch.as_tensor(graph.ao.ao_slots), torch.as_tensor(graph.edge_index)
    atoms = torch.arange(mol.natm)
    # the target is the last field
    matrices = torch.as_tensor(np.stack([reference.fock, *reference.responses, fock - reference.fock]))
    site = gather_blocks(matrices, slots, atoms, atoms).float()
    pair = gather_blocks(matrices, slots, edges[0], edges[1]).float()
    return FockData(
        num_nodes=mol.natm,
        element=torch.as_tensor(graph.ao.element_index),
        charge=torch.full((mol.natm,), float(label.charge)),
        positions=torch.as_tensor(graph.positions),
        edge_index=edges,
        site=site[:, :-1].contiguous(),
        pair=pair[:, :-1].contiguous(),
        target_site=site[:, -1].contiguous(),
        target_pair=pair[:, -1].contiguous(),
        ao_slots=slots,
        nao=torch.tensor([mol.nao]),
        n_occupied=torch.tensor([mol.nelectron // 2]),
        coefficients=torch.as_tensor(orbitals.coefficients).float().reshape(-1),
        energies=torch.as_tensor(orbitals.energies).float(),
        name=label.name,
    )


def load_split(
    paths: Sequence[str],
    split: str,
    table: ShellTable,
    model: ModelConfig,
    limit: int | None = None,
    cache: Path = CACHE,
) -> tuple[list[FockData], Theory]:
    """All molecules of a split from label files of one level of theory; references come from the cache.

    Raises ValueError where the files do not agree, with each other or with the reference's functional, or hold no
    molecule of the split.
    """
    found: list[FockData] = []
    theories = {path: LabelFile(path).theory for path in paths}
    if len(set(theories.values())) != 1:
        raise ValueError(f"label files of different levels of theory cannot be mixed: {theories}")
    theory = next(iter(theories.values()))
    if theory.xc.lower() != model.reference.xc.lower():
        raise ValueError(
            f"labels are of {theory.xc!r}, the reference of {model.reference.xc!r}; set xc = {theory.xc!r} in the "
            "section [model.reference] of the config"
        )
    folder = cache_folder(theory, model.reference, cache)
    for path in paths:
        labels = LabelFile(path)
        chosen = [k for k, s in enumerate(labels.splits) if s == split]
        with lib.with_omp_threads(1):
            for k in tqdm(chosen, desc=f"{Path(path).name} {split}", unit="mol", mininterval=5):
                if limit is not None and len(found) >= limit:
                    break
                reference = cached_reference(labels[k], theory.basis, model.reference, folder)
                found.append(make_data(labels[k], reference.reference(model.reference), table, model, theory.basis))
    if not found:
        raise ValueError(f"no molecule of split {split!r} in {', '.join(paths)}")
    return found, theory


class StepSampler:
    """Batches of indices for steps start..stop of a run: a seeded shuffle per epoch, the same however a run is
    sliced.
    """

    def __init__(self, n: int, batch_size: int, seed: int, start: int, stop: int) -> None:
        self.n, self.batch_size, self.seed, self.start, self.stop = n, min(batch_size, n), seed, start, stop

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[int]]:
        per_epoch = self.n // self.batch_size
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for step in range(self.start, self.stop):
            if step // per_epoch != epoch:
                epoch = step // per_epoch
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
                order = torch.randperm(self.n, generator=generator)
            first = (step % per_epoch) * self.batch_size
            yield order[first : first + self.batch_size].tolist()
