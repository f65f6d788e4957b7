"""Errors and SCF cycles of the trials of a study, one row per trial and held-out molecule.

A molecule is read once for all trials that lack its row; rows are `training.evaluate.Row`s whose route is the key of
the trial, or the name of a reference, for F_ref without a network.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from pyscf import lib
from tqdm import tqdm

from pyscf_tracegrad.checkpoint import Checkpoint, load_checkpoint
from pyscf_tracegrad.config import ReferenceSettings
from training.command import worker_pool
from training.cycles import CycleCounter, Scf
from training.evaluate import Row, evaluate_fock, network_fock
from training.labels import LabelFile
from training.loop import MODEL
from training.references import cache_folder, cached_reference
from training.rows import append_rows, read_rows
from training.studies.run import Place, claimed, finished, start_worker
from training.studies.trials import Trial

ROWS = "scores.csv"


@dataclass(frozen=True)
class Candidate:
    """A row that is to be made: F_ref of a reference, and with a model file, what the model makes of it."""

    route: str
    reference: ReferenceSettings
    model: Path | None


@dataclass(frozen=True)
class Task:
    """All candidates of one molecule. scf: count cycles by `coarse` SCFs, or not at all."""

    path: str
    index: int
    candidates: tuple[Candidate, ...]
    scf: Scf


def reference_route(settings: ReferenceSettings) -> str:
    """Name of the rows of F_ref alone."""
    mixed = " mixed" if settings.mixing == "anderson" else ""
    return f"{settings.strategy} {settings.steps}{mixed}"


def candidates(place: Place, trials: Sequence[Trial]) -> list[Candidate]:
    """The models that are trained, and the references they correct."""
    ready = list({t.key: t for t in trials if finished(place, t)}.values())
    found = {
        reference_route(t.config.model.reference): Candidate(
            reference_route(t.config.model.reference), t.config.model.reference, None
        )
        for t in trials
    }
    models = [Candidate(t.key, t.config.model.reference, place.folder(t) / MODEL) for t in ready]
    return [*found.values(), *models]


def held_out(labels: Sequence[str], with_scf: int) -> list[tuple[str, int, bool]]:
    """(file, index, whether cycles are counted) of every validation molecule; cycles of `with_scf` neutral ones.

    Those are spread evenly over the sizes.
    """
    files = {path: LabelFile(path) for path in labels}
    found = [(path, k) for path, file in files.items() for k, split in enumerate(file.splits) if split == "val"]
    neutral = sorted(
        (f for f in found if files[f[0]].charges[f[1]] == 0),
        key=lambda f: (len(files[f[0]][f[1]].atomic_numbers), files[f[0]].names[f[1]]),
    )
    places = np.linspace(0, len(neutral) - 1, min(with_scf, len(neutral))).round().astype(int)
    counted = {neutral[k] for k in places}
    return [(path, k, (path, k) in counted) for path, k in found]


@lru_cache(maxsize=64)
def _model(path: Path) -> Checkpoint:
    return load_checkpoint(path)


@lru_cache(maxsize=4)
def _labels(path: str) -> LabelFile:
    return LabelFile(path)


def score_molecule(task: Task) -> list[Row]:
    """Rows of one molecule."""
    file = _labels(task.path)
    label, theory = file[task.index], file.theory
    mol = label.molecule(theory.basis)
    rows = []
    with lib.with_omp_threads(1):
        counter = CycleCounter(label, mol, theory.xc, task.scf)
        for candidate in task.candidates:
            settings = candidate.reference
            folder = cache_folder(theory, settings)
            reference = cached_reference(label, theory.basis, settings, folder).reference(settings, label.nelec)
            fock = reference.fock
            if candidate.model is not None:
                fock = network_fock(_model(candidate.model), mol, reference)
            rows.append(evaluate_fock(fock, reference.overlap, candidate.route, counter))
    return rows


def latest(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """One row for each molecule and route, the last."""
    return {(row.name, row.route): row for row in rows}


def open_tasks(place: Place, trials: Sequence[Trial], with_scf: int, rows: Sequence[Row]) -> list[Task]:
    """What has no row yet, or one without cycles where these are wanted."""
    done = latest(rows)
    every = candidates(place, trials)
    tasks = []
    for file, k, scf in held_out(place.labels, with_scf):
        wanted: Scf = "coarse" if scf else "none"
        name = _labels(file).names[k]
        found = {c.route: done.get((name, c.route)) for c in every}
        left = tuple(c for c in every if (row := found[c.route]) is None or (scf and row.scf != wanted))
        if left:
            tasks.append(Task(file, k, left, wanted))
    return tasks


def score_all(place: Place, trials: Sequence[Trial], with_scf: int, workers: int, threads: int) -> list[Row]:
    """Old rows of the study and those that were missing; what another command scores is left to it."""
    path = place.out / ROWS
    with claimed(place.out) as mine:
        rows = read_rows(path, Row)
        tasks = open_tasks(place, trials, with_scf, rows) if mine else []
        if tasks:
            context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
            with worker_pool(workers, context, start_worker, (threads,)) as pool:
                futures = [pool.submit(score_molecule, task) for task in tasks]
                for future in tqdm(as_completed(futures), total=len(futures), desc="scores", unit="mol"):
                    append_rows(path, future.result())
                    rows += future.result()
    return list(latest(rows).values())
