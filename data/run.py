"""The run: molecules to workers, results to the journal as they come, failures with their reasons.

Labels go before molecules that are not prepared yet. Only this process writes, so a worker that is killed loses one
task's work, and a killed run what is in flight.
"""

from __future__ import annotations

import itertools
from collections import deque
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from data.cluster import Flow, Workers, was_killed
from data.errors import JournalError, MoleculeError
from data.journal import Counts, Failure, Journal
from data.settings import LabelSettings, Source, TheoryLevel
from data.structure import LabelRow, Seed, Structure

_ATTEMPTS = 2  # Dask gives a task up that was on 4 workers that died, perhaps by bad luck; so often it is tried
_GONE = "the scheduler is gone, or was restarted; what was done is kept. Run the same command again"


@dataclass(frozen=True)
class Task:
    """What a worker does: prepare a molecule (seed, source) or label a structure (its name)."""

    kind: str  # of Failure: `seed` or `structure`
    name: str
    attempt: int = 0


def prepare_task(seed: Seed, source: Source) -> list[Structure] | Failure:
    """Structures of one molecule, on a worker; what goes wrong comes back as a `Failure`."""
    try:
        from data.prepare import prepare

        return prepare(seed, source)
    except Exception as error:  # noqa: BLE001  (one molecule must not stop the others)
        return Failure("seed", seed.name, reason_of(error))


def label_task(structure: Structure, theory: TheoryLevel, settings: LabelSettings) -> LabelRow | Failure:
    """Label of one structure, on a worker; what goes wrong comes back as a `Failure`."""
    try:
        from data.label import label

        return label(structure, theory, settings)
    except Exception as error:  # noqa: BLE001  (one structure must not stop the others)
        return Failure("structure", structure.name, reason_of(error))


def reason_of(error: Exception) -> str:
    """An exception in one line; what is not a MoleculeError is named by its class."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, MoleculeError):
        return text
    return f"out of memory ({text})" if isinstance(error, MemoryError) else f"{type(error).__name__}: {text}"


class Run:
    """One run over a journal that knows all molecules of the set.

    workers: from `cluster.connect`. recipes: molecule and source by name.
    """

    def __init__(
        self,
        journal: Journal,
        workers: Workers,
        recipes: dict[str, tuple[Source, Seed]],
        theory: TheoryLevel,
        settings: LabelSettings,
    ) -> None:
        self._journal, self._workers, self._recipes = journal, workers, recipes
        self._theory, self._settings = theory, settings
        self._again: deque[Task] = deque()
        self._labels = deque(Task("structure", name) for name, seed in journal.unlabelled() if seed in recipes)
        self._seeds = deque(Task("seed", name) for name in journal.unprepared() if name in recipes)
        self._flow = Flow(workers, self._next, self._submit)

    def work(self) -> None:
        """Do all that is left. Raises JournalError when results cannot be kept or the scheduler is gone."""
        try:
            self._work()
        except (OSError, TimeoutError, CancelledError) as error:  # Dask's own errors of a lost scheduler among them
            raise JournalError(f"{_GONE} ({type(error).__name__})") from None

    def _work(self) -> None:
        counts = self._journal.counts()
        done = counts.labelled + counts.failed
        with tqdm(
            total=self._expected(counts), initial=done, desc="labels", unit="label", smoothing=0.05, mininterval=1
        ) as bar:
            self._flow.fill()
            while self._flow.flying:
                for task, future in self._flow.finished():
                    self._take(task, future)
                self._flow.fill()
                self._workers.tend()
                counts = self._journal.counts()
                bar.total = self._expected(counts)
                bar.update(counts.labelled + counts.failed - bar.n)
                bar.set_postfix(failed=counts.failed + counts.failed_seeds, refresh=False)

    def _expected(self, counts: Counts) -> int:
        """Labelled and failed structures, those to do, and what the molecules still to prepare will give."""
        waiting = itertools.chain(self._seeds, self._flow.flying, self._again)
        seeds = [self._recipes[task.name][0] for task in waiting if task.kind == "seed"]
        return counts.labelled + counts.failed + counts.todo + sum(map(structures_of, seeds))

    def _next(self) -> Task | None:
        for queue in (self._again, self._labels, self._seeds):
            if queue:
                return queue.popleft()
        return None

    def _submit(self, client: Any, task: Task) -> Any:
        if task.kind == "seed":
            source, seed = self._recipes[task.name]
            return client.submit(prepare_task, seed, source, pure=False)
        structure = self._journal.structure(task.name)
        return client.submit(label_task, structure, self._theory, self._settings, pure=False, priority=1)

    def _take(self, task: Task, future: Any) -> None:
        """Enter what came of a task."""
        if future.status == "finished":
            self._enter(task, future.result())
            return
        if future.status != "error":  # cancelled or lost: its scheduler is gone or was restarted
            raise JournalError(_GONE)
        if not was_killed(future):
            self._journal.failed(Failure(task.kind, task.name, reason_of(future.exception())))
        elif task.attempt + 1 < _ATTEMPTS:
            self._again.append(Task(task.kind, task.name, task.attempt + 1))
        else:
            reason = f"its workers were killed; out of memory? (labels.memory is {self._settings.memory} MB)"
            self._journal.failed(Failure(task.kind, task.name, reason))

    def _enter(self, task: Task, result: Any) -> None:
        if isinstance(result, Failure):
            self._journal.failed(result)
        elif isinstance(result, LabelRow):
            self._journal.labelled(result)
        else:
            try:
                self._journal.prepared(task.name, result)
            except MoleculeError as error:
                self._journal.failed(Failure("seed", task.name, reason_of(error)))
            else:
                self._labels.extend(Task("structure", s.name) for s in result)


def structures_of(source: Source) -> int:
    """Number of structures that one molecule of a source gives, if it has that many sites for ions."""
    kept = int(source.neutral or not source.ions) + (source.sites if source.ions else 0)
    return kept * (1 + source.frames)
