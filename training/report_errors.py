"""Errors of a model for the molecules of label files, with references from the cache; for `training.report`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pyscf import gto, lib
from tqdm import tqdm

from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.checkpoint import Checkpoint
from training.evaluate import network_fock
from training.labels import Label, LabelFile
from training.metrics import BlockErrors, FockErrors, atoms_of_aos, block_errors, fock_errors
from training.references import CACHE, cache_folder, cached_reference


@dataclass(frozen=True)
class MoleculeErrors:
    """One molecule of the report: errors of the model's Fock matrix and of F_ref alone, and the model's by blocks."""

    name: str
    formula: str
    charge: int
    n_atoms: int
    model: FockErrors
    reference: FockErrors
    blocks: BlockErrors


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread for torch, PySCF and BLAS: a molecule is too small for more, which wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with lib.with_omp_threads(1), one_blas_thread():
            yield
    finally:
        torch.set_num_threads(threads)


def _formula(mol: gto.Mole) -> str:
    """Sum formula, carbon and hydrogen first."""
    counts = Counter(mol.atom_pure_symbol(k) for k in range(mol.natm))
    order = sorted(counts, key=lambda symbol: (symbol != "C", symbol != "H", symbol))
    return "".join(f"{symbol}{counts[symbol] if counts[symbol] > 1 else ''}" for symbol in order)


def measure_molecule(checkpoint: Checkpoint, label: Label, folder: Path) -> MoleculeErrors:
    """Errors of a model for one label, whatever its charge; `folder`: of the cache, see `cache_folder`."""
    settings = checkpoint.model.config
    mol = label.molecule(checkpoint.basis)
    cached = cached_reference(label, checkpoint.basis, settings.reference, folder)
    reference = cached.reference(settings.reference, label.nelec)
    fock, target = network_fock(checkpoint, mol, reference), label.full_fock()
    atoms, n_occupied = atoms_of_aos(mol), mol.nelectron // 2
    return MoleculeErrors(
        name=label.name,
        formula=_formula(mol),
        charge=label.charge,
        n_atoms=mol.natm,
        model=fock_errors(fock, target, reference.overlap, n_occupied, atoms),
        reference=fock_errors(reference.fock, target, reference.overlap, n_occupied, atoms),
        blocks=block_errors(fock, target, mol),
    )


def _check_theory(checkpoint: Checkpoint, labels: LabelFile) -> None:
    for what, own, other in (
        ("functional", checkpoint.xc, labels.theory.xc),
        ("basis", checkpoint.basis, labels.theory.basis),
    ):
        if own.lower() != other.lower():
            raise ValueError(
                f"{labels.path}: labels of the {what} {other!r}, the model is of {own!r}; "
                f"give labels of {checkpoint.xc}/{checkpoint.basis}"
            )


def measure(
    checkpoint: Checkpoint, paths: Sequence[Path], split: str, limit: int | None = None, cache: Path = CACHE
) -> list[MoleculeErrors]:
    """Errors of a model for the molecules of a split, at most `limit` of each label file.

    Raises ValueError where the labels are not of the model's level of theory, hold no molecule of the split, or one
    that cannot be measured, such as one with an element that the model does not know.
    """
    files = [LabelFile(path) for path in paths]
    for labels in files:
        _check_theory(checkpoint, labels)
    chosen = [(f, k) for f in files for k in [k for k, s in enumerate(f.splits) if s == split][:limit]]
    if not chosen:
        there = ", ".join(sorted({s for labels in files for s in labels.splits})) or "none"
        raise ValueError(f"no molecule of split {split!r} in {', '.join(map(str, paths))}; splits there: {there}")
    found = []
    with _one_thread():
        for labels, k in tqdm(chosen, desc=split, unit="mol", mininterval=5):
            folder = cache_folder(labels.theory, checkpoint.model.config.reference, cache)
            try:
                found.append(measure_molecule(checkpoint, labels[k], folder))
            except ValueError as error:
                raise ValueError(f"{labels.path}: {labels.names[k]}: {error}") from error
    return found
