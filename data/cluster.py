"""Workers: Dask's own local cluster, or a scheduler that is running already, and the flow of tasks to them.

Who may give tasks to a cluster may run any program as its owner. The local one therefore listens on this machine only
and asks for a key (TLS) that is made for the run, kept in memory and known to its own processes alone.

A local worker is a process with its own memory limit: Dask's nanny ends it at 95 % and starts another. Dask's spilling
and pausing are off, because the memory is PySCF's and would not come back by either.
"""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import Any, Generic, TypeVar

from data.errors import JournalError, SetFileError

T = TypeVar("T")

OVERHEAD = 1000  # MB; Python, PySCF, RDKit and xTB loaded take 300 to 500, the rest is slack
_CONNECT_SECONDS = 30
_START_SECONDS = 300
_TEND_SECONDS = 3
_WAIT_SECONDS = 5
_FETCH_SECONDS = 30
_LOOPBACK = "127.0.0.1"
_PER_WORKER = 2  # tasks in flight for each worker: one runs, one is there when it ends


def memory_limit(label_memory: int) -> int:
    """MB at which a local worker is ended: what a label may use and what the programs themselves take."""
    return label_memory + OVERHEAD


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Dask's own log of lost workers and schedulers, a traceback for each: what went wrong is told once."""
    names = ["distributed", *(name for name in logging.root.manager.loggerDict if name.startswith("distributed."))]
    levels = {name: logging.getLogger(name).level for name in names}
    for name in names:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


class Workers:
    """Where tasks go.

    client: `distributed.Client`. cluster: the local cluster of `wanted` workers, None where a scheduler was given.
    """

    def __init__(self, client: Any, cluster: Any = None, wanted: int = 0) -> None:
        self.client, self._cluster, self._wanted = client, cluster, wanted
        self._seen, self._tended = time.monotonic(), -math.inf
        self._suspects: set[Any] = set()
        self.tend()

    def count(self) -> int:
        """Number of workers now."""
        return len(self.client.scheduler_info(n_workers=-1)["workers"])

    def tend(self) -> None:
        """Replace local workers that were lost for good; to be called often, it looks every few seconds.

        Dask's nanny starts a worker anew that dies, but not one that dies while it starts. Raises JournalError where no
        local worker comes to life.
        """
        now = time.monotonic()
        if self._cluster is None or now - self._tended < _TEND_SECONDS:
            return
        self._tended = now
        dead = {name for name, nanny in list(self._cluster.workers.items()) if not nanny.is_alive()}
        for name in dead & self._suspects:  # twice in a row: it is not being started either
            self._cluster.worker_spec.pop(name, None)
        self._suspects = dead
        self._cluster.scale(self._wanted)
        if self.count():
            self._seen = now
        elif now - self._seen > _START_SECONDS:
            raise JournalError(
                f"no worker has started for {_START_SECONDS} s; is there memory for {self._wanted} of them (--workers)?"
            )


@dataclass(frozen=True)
class Ended:
    """A future that is over, as it was then: what it gave is here, and is not lost with the worker that had it.

    status: Dask's: `finished`, `error` or `cancelled`.
    """

    status: str
    value: Any = None
    error: Exception | None = None

    def result(self) -> Any:
        """What the task gave, if it finished."""
        return self.value

    def exception(self) -> Exception | None:
        """What it raised, if it failed."""
        return self.error


def _ended(future: Any) -> Ended | None:
    """What came of a future, None where its result was lost with its worker and is being made again.

    That may need new workers, which come by `Workers.tend` only, so nobody may wait for it here.
    """
    try:
        return Ended("finished", future.result(timeout=_FETCH_SECONDS))
    except Exception as error:
        if future.status == "error":
            return Ended("error", error=future.exception())
        if future.status == "cancelled":
            return Ended("cancelled")
        if isinstance(error, TimeoutError):
            return None
        raise


class Flow(Generic[T]):
    """Tasks in flight: only so many as keep the workers busy, so that a set of any size fits into memory.

    next_task: the next one, None where there is none now. submit: hands a task to a `distributed.Client`.
    """

    def __init__(self, workers: Workers, next_task: Callable[[], T | None], submit: Callable[[Any, T], Any]) -> None:
        self._workers, self._next, self._submit = workers, next_task, submit
        self._flying: dict[Any, T] = {}

    @property
    def flying(self) -> list[T]:
        """What is in flight."""
        return list(self._flying.values())

    def fill(self) -> None:
        """New tasks to the workers, as many as there is room for."""
        most = _PER_WORKER * max(1, self._workers.count())
        while len(self._flying) < most and (task := self._next()) is not None:
            self._flying[self._submit(self._workers.client, task)] = task

    def finished(self) -> list[tuple[T, Ended]]:
        """Tasks that are over, with what came of them, after one is or some seconds have gone by."""
        from distributed import wait

        with contextlib.suppress(TimeoutError):
            wait(list(self._flying), timeout=_WAIT_SECONDS, return_when="FIRST_COMPLETED")
        over: list[tuple[T, Ended]] = []
        for future in [f for f in self._flying if f.done()]:
            ended = _ended(future)
            if ended is None:  # workers first, the others can wait
                break
            over.append((self._flying.pop(future), ended))
        return over


def was_killed(future: Any) -> bool:
    """Whether a task that failed did so because its workers died, four times over."""
    return type(future.exception()).__name__ == "KilledWorker"


@cache  # one key for a process, and one note
def _security() -> Any:
    """Dask's `Security` with a fresh key for the processes of a run, or None where `cryptography` is missing."""
    from distributed import Security

    if find_spec("cryptography") is not None:
        return Security.temporary()
    print(
        "note: the local workers ask for no key, as `cryptography` is not installed: whoever has an account on this "
        "machine can run programs as you while they work. pip install cryptography",
        file=sys.stderr,
    )
    return None


def _settings(threads: int, preload: Sequence[str], dashboard: bool) -> dict[str, Any]:
    """Dask's settings of a local cluster."""
    count = str(threads)
    settings: dict[str, Any] = {
        "distributed.worker.memory.target": False,
        "distributed.worker.memory.spill": False,
        "distributed.worker.memory.pause": False,
        "distributed.worker.memory.terminate": 0.95,
        "distributed.worker.preload": list(preload),
        "distributed.nanny.pre-spawn-environ": {
            "OMP_NUM_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "MALLOC_TRIM_THRESHOLD_": "65536",
        },
    }
    if not dashboard:  # Dask cannot do without its web servers; without pages they answer nothing
        settings |= {"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}
    return settings


def _local_cluster(label_memory: int, dashboard: bool) -> Any:
    """A local cluster without workers yet: one that dies while the cluster starts would end it; `Workers` starts
    them.
    """
    from distributed import LocalCluster

    return LocalCluster(
        host=_LOOPBACK,
        security=_security(),
        n_workers=0,
        threads_per_worker=1,  # one molecule at a time; threads are PySCF's
        processes=True,
        memory_limit=f"{memory_limit(label_memory)}MB",
        # any free port, so that two runs do not meet
        scheduler_kwargs={"dashboard": dashboard, "dashboard_address": f"{_LOOPBACK}:0"},
        silence_logs=logging.CRITICAL,
    )


@contextmanager
def connect(
    scheduler: str | None,
    workers: int,
    threads: int,
    label_memory: int,
    preload: Sequence[str] = ("data.preload",),
    dashboard: bool = False,
) -> Iterator[Workers]:
    """Workers of the scheduler at an address, or of a local cluster of processes that ends with this context.

    threads: per worker of the local cluster. label_memory: MB. preload: modules whose `dask_setup` a local worker runs
    before its first task. dashboard: Dask's web pages of the local cluster, without a key, for this machine only; their
    address is printed. Raises SetFileError where no scheduler answers, and where a dashboard is not possible.
    """
    import dask
    from distributed import Client

    if dashboard and scheduler is not None:
        raise SetFileError("--dashboard is of the local cluster; a scheduler of --scheduler has its own")
    if dashboard and find_spec("bokeh") is None:
        raise SetFileError("--dashboard needs bokeh, which is not installed: pip install bokeh")
    with dask.config.set(_settings(threads, preload, dashboard)), _quiet():
        if scheduler is not None:
            try:
                client = Client(scheduler, timeout=_CONNECT_SECONDS)
            except (OSError, TimeoutError, ValueError) as error:
                raise SetFileError(f"no Dask scheduler answers at {scheduler!r} ({error})") from None
            with client:
                yield Workers(client)
            return
        with _local_cluster(label_memory, dashboard) as cluster, Client(cluster) as client:
            if dashboard:
                print(f"dashboard: {client.dashboard_link}", file=sys.stderr)
            yield Workers(client, cluster, workers)
