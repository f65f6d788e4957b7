"""Labels and references -> torch-geometric data, made once and kept in files that are mapped into memory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from training.labels import Label, LabelError, LabelFile, Theory
from training.references import CACHE, cache_folder, cached_reference
from training.tensors import file_digest, read_tensors, write_tensors


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


def label_elements(paths: Sequence[str]) -> set[int]:
    """Atomic numbers in label files, all splits. Raises LabelError for a file that is none."""
    elements: set[int] = set()
    for path in paths:
        numbers = LabelFile(path).column("atomic_numbers")
        elements.update(() if numbers is None else np.unique(numbers).tolist())
    return elements


def load_split(
    paths: Sequence[str],
    split: str,
    table: ShellTable,
    model: ModelConfig,
    limit: int | None = None,
    cache: Path = CACHE,
    tensors: Path | None = None,
) -> tuple[list[FockData], Theory]:
    """All molecules of a split, or the first `limit`, from label files of one level of theory.

    References come from `cache`. The tensors made of them are kept in a file per label file and split, under `tensors`
    (default: a folder of that name beside `cache`), and mapped into memory the next time; one that is damaged, or
    was made with other settings or of other labels, is made again.

    Raises ValueError where the files do not agree, with each other or with the reference's functional, or hold no
    molecule of the split, and LabelError for a broken file or label.
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
    source = _Source(split, table, model, cache, cache.parent / "tensors" if tensors is None else tensors)
    for path in paths:
        if limit is None or len(found) < limit:
            found += source.molecules(path, None if limit is None else limit - len(found))
    if not found:
        raise ValueError(f"no molecule of split {split!r} in {', '.join(paths)}")
    return found, theory


@dataclass(frozen=True)
class _Source:
    """Molecules of one split of a label file, from the file of tensors or made."""

    split: str
    table: ShellTable
    model: ModelConfig
    cache: Path
    tensors: Path

    def molecules(self, path: str, limit: int | None) -> list[FockData]:
        labels = LabelFile(path)
        chosen = [k for k, split in enumerate(labels.splits) if split == self.split]
        key = self._key(path)
        name = f"{Path(path).stem}-{self.split}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.pt"
        stored = read_tensors(self.tensors / name, key)
        if stored is None:
            made = self._make(labels, chosen[:limit])
            if made and len(made) == len(chosen):
                write_tensors(self.tensors / name, key, [m.to_dict() for m in made])
                stored = read_tensors(self.tensors / name, key)  # mapped, instead of the memory that was needed
            if stored is None:
                return made
        return [FockData(**fields) for fields in stored[:limit]]

    def _key(self, path: str) -> str:
        """All that the tensors depend on."""
        reference = dataclasses.asdict(self.model.reference)
        shells = self.table.to_list()
        return json.dumps([file_digest(path), self.split, reference, shells, self.model.cutoff])

    def _make(self, labels: LabelFile, chosen: Sequence[int]) -> list[FockData]:
        settings, theory = self.model.reference, labels.theory
        folder = cache_folder(theory, settings, self.cache)
        made = []
        with lib.with_omp_threads(1):
            for k in tqdm(chosen, desc=f"{labels.path.name} {self.split}", unit="mol", mininterval=5):
                try:
                    label = labels[k]
                except LabelError as error:
                    raise LabelError(f"{labels.path}: {error}") from None
                reference = cached_reference(label, theory.basis, settings, folder).reference(settings, label.nelec)
                made.append(make_data(label, reference, self.table, self.model, theory.basis))
        return made


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
