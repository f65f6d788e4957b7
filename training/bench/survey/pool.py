"""One process for each SCF, so that none slows, kills or outlives another.

They are forked from one process that has PySCF, torch and the model loaded (`preload`), on one thread, because the
threads of PySCF and torch do not survive a fork.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

Task = TypeVar("Task")
Measured = TypeVar("Measured")

# Wall time over the limit of processor time at which a process counts as hanging; others may use the machine.
_PATIENCE = 20
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class PoolError(RuntimeError):
    """The processes cannot be run."""


@dataclass(frozen=True)
class Ended:
    """A process that gave nothing. cpu: processor seconds, nan where they are not known."""

    reason: str
    cpu: float = math.nan


@dataclass(frozen=True)
class _Flight(Generic[Task]):
    task: Task
    process: BaseProcess
    end: Connection
    latest: float


def run_each(
    function: Callable[[Task], Measured],
    tasks: Sequence[Task],
    jobs: int,
    limit_seconds: float,
    preload: Sequence[str] = (),
) -> Iterator[tuple[Task, Measured | Ended]]:
    """Each task with what the function gave, as it comes, or with what ended its process.

    Raises PoolError where a process failed by an exception: that is no result of the task.

    limit_seconds: processor time of one task. preload: modules that are imported before the processes are forked.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preload))
    left, flying = deque(tasks), list[_Flight[Task]]()
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))  # for the process that is forked from, when the first one starts
    try:
        while left or flying:
            while left and len(flying) < jobs:
                flying.append(_take_off(context, function, left.popleft(), limit_seconds))
            ready = wait([flight.end for flight in flying], timeout=1.0)
            for flight in [f for f in flying if f.end in ready or time.monotonic() > f.latest]:
                flying.remove(flight)
                yield flight.task, _land(flight, limit_seconds)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        for flight in flying:
            flight.process.kill()


def _take_off(context: Any, function: Callable[[Task], Any], task: Task, limit_seconds: float) -> _Flight[Task]:
    end, other = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(function, task, limit_seconds, other), daemon=True)
    process.start()
    other.close()  # else its end would not be seen when it dies
    return _Flight(task, process, end, time.monotonic() + _PATIENCE * limit_seconds)


def _work(function: Callable[[Task], Any], task: Task, limit_seconds: float, end: Connection) -> None:
    """In the process: Ctrl-C is left to the parent, which ends all."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    used = resource.getrusage(resource.RUSAGE_SELF)
    allowed = int(used.ru_utime + used.ru_stime + limit_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (allowed, resource.RLIM_INFINITY))
    measured = function(task)
    with contextlib.suppress(BrokenPipeError):  # the parent was killed
        end.send(measured)


def _land(flight: _Flight[Any], limit_seconds: float) -> Any:
    """What a process sent, or why it sent nothing."""
    try:
        if flight.end.poll():
            return flight.end.recv()
    except (EOFError, OSError):  # it is dead
        pass
    finally:
        flight.end.close()
        if time.monotonic() > flight.latest:
            flight.process.kill()
        flight.process.join()
    code = flight.process.exitcode or 0
    if code == -signal.SIGXCPU or time.monotonic() > flight.latest:
        return Ended(f"took more than {limit_seconds:g} s", limit_seconds)
    if code >= 0:
        raise PoolError("a process ended before it gave a result; what it raised stands above")
    return Ended(f"ended by {signal.Signals(-code).name}")
