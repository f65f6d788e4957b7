"""A study's molecules to workers, rows to the results as they come."""

from __future__ import annotations

import contextlib
import fcntl
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

import pyscf_tracegrad
from data.cluster import Flow, Workers, was_killed
from training.acceleration.protocol import Protocol, ProtocolError
from training.acceleration.runs import Outcome, Row, Task, run_task
from training.acceleration.targets import Targets
from training.bench.common import message, warm_up
from training.bench.molecules import Molecule, named
from training.rows import append_rows, read_rows

RESULTS = "results.csv"
_GONE = "the scheduler is gone, or was restarted; what was done is kept. Run the same command again"


def make_tasks(
    molecules: Sequence[Molecule],
    protocol: Protocol,
    guesses: Sequence[str],
    repeats: int,
    rows: Sequence[Row],
    targets: Targets,
    model: str = "",
) -> list[Task]:
    """What has no row yet, repeat by repeat.

    All errors are against the converged Fock matrix of the first guess; where that is not kept it is run again. model:
    path of the network's model; empty: the shipped one.
    """
    done = {row.key for row in rows}
    tasks = []
    for repeat in range(repeats):
        for molecule in molecules:
            missing = [guess for guess in guesses if (molecule.name, guess, repeat) not in done]
            if missing:
                target = targets.read(molecule.name)
                first = [] if guesses[0] in missing or target is not None else [guesses[0]]
                tasks.append(Task(molecule, protocol, (*first, *missing), repeat, target, model))
    return tasks


@lru_cache(maxsize=1)
def _ready(threads: int, model: str) -> None:
    """Once in a process: threads, and all that the first guess and the first SCF would load."""
    warm_up(threads)
    if model:
        pyscf_tracegrad.load_model(model)


def work_task(task: Task) -> Outcome:
    """Rows of one molecule, on a worker."""
    _ready(task.protocol.threads, task.model)
    return run_task(task)


def lost(task: Task, reason: str) -> Outcome:
    """Rows of a task that gave none."""
    m = task.molecule
    return Outcome(
        [Row(m.name, guess, task.repeat, m.n_atoms, 0, m.charge, m.spin, error=reason) for guess in task.guesses]
    )


def work_off(workers: Workers, tasks: Sequence[Task]) -> Iterator[tuple[Task, Outcome]]:
    """Each task with its rows as they come. Raises ProtocolError where the scheduler is gone."""
    left = deque(tasks)
    flow: Flow[Task] = Flow(
        workers, lambda: left.popleft() if left else None, lambda client, t: client.submit(work_task, t, pure=False)
    )
    try:
        flow.fill()
        while flow.flying:
            for task, future in flow.finished():
                yield task, _outcome(task, future)
            flow.fill()
            workers.tend()
    except (OSError, TimeoutError, CancelledError) as error:  # Dask's own errors of a lost scheduler among them
        raise ProtocolError(f"{_GONE} ({type(error).__name__})") from None


def _outcome(task: Task, future: Any) -> Outcome:
    if future.status == "finished":
        found: Outcome = future.result()
        return found
    if future.status != "error":  # cancelled or lost: its scheduler is gone or was restarted
        raise ProtocolError(_GONE)
    if was_killed(future):
        return lost(task, "its workers were killed; out of memory? give more by --memory")
    return lost(task, message(future.exception()))


@contextlib.contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder. Raises ProtocolError where there is one."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ProtocolError(f"{folder}: another study runs there; wait for it, or give another -o") from None
        yield


def read_results(folder: Path) -> list[Row]:
    """Rows of a folder."""
    return read_rows(folder / RESULTS, Row)


def run_study(folder: Path, workers: Workers, tasks: Sequence[Task], rows: Sequence[Row]) -> list[Row]:
    """Old rows and those of the tasks, appended to `results.csv` as they come, with the targets that they set."""
    known, targets = {row.key: row for row in rows}, Targets(folder)
    with tqdm(total=len(tasks), unit="mol", mininterval=5, desc="acceleration") as bar:
        for task, found in work_off(workers, tasks):
            fresh = [row for row in found.rows if row.key not in known]
            if task.target is None and found.target is not None:
                targets.write(task.molecule.name, found.target)
            append_rows(folder / RESULTS, fresh)
            known |= {row.key: row for row in fresh}
            bar.update()
    return list(known.values())


def without_failures(folder: Path, rows: Sequence[Row]) -> list[Row]:
    """Rows that raised nothing; the others are taken out of the file, so that they are tried again."""
    kept = [row for row in rows if not row.error]
    if len(kept) < len(rows):
        path = folder / RESULTS
        partial = path.with_suffix(".tmp")
        partial.unlink(missing_ok=True)
        append_rows(partial, kept)
        if kept:
            partial.replace(path)
        else:
            path.unlink()
    return kept


def chosen(molecules: Sequence[Molecule], patterns: Sequence[str], max_atoms: int, limit: int) -> list[Molecule]:
    """Molecules whose names match a pattern (as in a shell) and of at most so many atoms (0: any); the first so many
    of them (0: all).
    """
    kept = [m for m in named(molecules, patterns) if not max_atoms or m.n_atoms <= max_atoms]
    return kept[:limit] if limit else kept


def with_reference(guesses: Sequence[str]) -> tuple[str, ...]:
    """Guesses with minao first, which all are compared with; each once."""
    return tuple(dict.fromkeys(("minao", *guesses)))
