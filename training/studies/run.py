"""Trials run by worker processes, in slices.

Every trial has a folder of its own, `OUT/trials/KEY`, with the state of its run. A slice that ends, or is killed, loses
what came after the last state; the next one goes on there.
"""

from __future__ import annotations

import dataclasses
import fcntl
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from pyscf import lib
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.orbitals import ShellTable
from training.command import worker_pool
from training.config import RunConfig
from training.dataset import FockData, load_split
from training.labels import LabelFile, Theory
from training.loop import MODEL, STATE, Trainer
from training.studies.cost import step_seconds
from training.studies.trials import Trial, shortened

_EVERY = 100  # steps between states


@dataclass(frozen=True)
class Place:
    """Where a study reads and writes: label files, and the folder of the study."""

    labels: tuple[str, ...]
    out: Path

    def folder(self, trial: Trial) -> Path:
        """Folder of a trial."""
        return self.out / "trials" / trial.key


@lru_cache(maxsize=1)
def training_set(labels: tuple[str, ...], model: ModelConfig) -> tuple[list[FockData], ShellTable, Theory]:
    """All training molecules; kept from one trial to the next where the reference is the same."""
    files = [LabelFile(path) for path in labels]
    elements = {int(z) for file in files for label in file for z in label.atomic_numbers}
    table = ShellTable.from_basis(files[0].theory.basis, elements)
    train, theory = load_split(labels, "train", table, model)
    return train, table, theory


def subset(data: Sequence[FockData], n: int | None) -> list[FockData]:
    """The first n of a fixed random order: smaller subsets are part of larger ones."""
    if n is None:
        return list(data)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0)).tolist()
    return [data[k] for k in sorted(order[:n])]


def steps_in(minutes: float, config: RunConfig, table: ShellTable, train: Sequence[FockData]) -> int:
    """Number of steps that take so many minutes of CPU time."""
    return max(1, round(60 * minutes / step_seconds([config], table, train)[0]))


def finished(place: Place, trial: Trial) -> bool:
    """Whether the training of a trial has come to its end."""
    return (place.folder(trial) / "done").exists()


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether a trial is this process's alone; the lock ends with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def train_trial(place: Place, trial: Trial, deadline: float | None) -> bool:
    """Train until the end or the deadline (of `time.time`); whether the end was reached.

    A trial that another command is at is left to it.
    """
    with claimed(place.folder(trial)) as mine:
        if finished(place, trial):
            return True
        if not mine or (deadline is not None and time.time() > deadline):
            return False
        return _train(place, trial, deadline)


def _train(place: Place, trial: Trial, deadline: float | None) -> bool:
    folder = place.folder(trial)
    shared = dataclasses.replace(
        ModelConfig(), reference=trial.config.model.reference, cutoff=trial.config.model.cutoff
    )
    data, table, theory = training_set(place.labels, shared)
    train = subset(data, trial.molecules)
    config, resume = trial.config, (folder / STATE).exists()
    if trial.minutes is not None:
        steps = torch.load(folder / STATE, weights_only=True)["config"]["schedule"]["steps"] if resume else None
        steps = steps or steps_in(trial.minutes, config, table, train)
        config = shortened(config, steps)
    trainer = Trainer(config, table, theory, train, folder, resume=resume)
    minutes = None if deadline is None else max(0.0, deadline - time.time()) / 60
    if trainer.step < config.schedule.steps:
        trainer.run(minutes, {}, every=_EVERY)
    if trainer.step < config.schedule.steps:
        return False
    (folder / "done").write_text(f"{trial.arm}, seed {trial.seed}\n")
    (folder / STATE).unlink()  # a study has many trials, and a state is four times a model
    return (folder / MODEL).exists()


def start_worker(threads: int) -> None:
    """Threads and priority of a worker process."""
    os.nice(5)
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    lib.num_threads(threads)


def train_all(place: Place, trials: Sequence[Trial], minutes: float | None, workers: int, threads: int) -> int:
    """Train what is not trained yet, in the order given; the number of trials that are complete."""
    deadline = None if minutes is None else time.time() + 60 * minutes
    distinct = list({trial.key: trial for trial in trials}.values())
    todo = [trial for trial in distinct if not finished(place, trial)]
    if todo:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        with worker_pool(workers, context, start_worker, (threads,)) as pool:
            futures = [pool.submit(train_trial, place, trial, deadline) for trial in todo]
            for future in tqdm(as_completed(futures), total=len(futures), desc="trials", unit="trial"):
                future.result()
    return sum(finished(place, trial) for trial in distinct)
