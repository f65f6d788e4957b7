"""How many threads the network has.

torch shares the loops of a small molecule's network, thousands of a few microseconds each, among as many OpenMP threads
as the machine has cores. Where other processes want the same cores, each loop waits for the slowest of its threads, and
0.1 s become seconds. Below `_PAYS` atoms one thread serves, and above it as many as torch has.

The shipped network on two cores, one thread and two. With nobody else: 5 atoms 0.03 s and 0.03 s, 20 atoms 0.12 and
0.08, 62 atoms 0.9 and 0.6, 101 atoms 2.1 and 1.3. With 4 processes a core two threads take 3 to 15 times as long as one
up to 20 atoms, 5 s instead of 0.5; with 3 a core 3 times as long at 62 atoms and 2.2 times at 101.

    python -m training.bench.throughput --modes inference --batch 1 --carbons 6 --threads 2

`torch.set_num_threads` is not for a library: besides the number of the calling thread it sets that of every thread
which uses torch for the first time later. OpenMP's own number, and MKL's, are of the calling thread alone.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import torch
from threadpoolctl import ThreadpoolController

_PAYS = 64  # atoms


@contextmanager
def network_threads(n_atoms: int) -> Iterator[None]:
    """Inside, torch has one thread for a molecule of few atoms; else what it had. Only in the calling Python thread."""
    if torch.get_num_threads() == 1 or n_atoms >= _PAYS:  # asked first: torch sets its number when a thread first asks
        yield
        return
    set_mkl = _mkl()
    with _openmp().limit(limits=1):
        before = set_mkl(1)
        try:
            yield
        finally:
            set_mkl(before)


@lru_cache(maxsize=1)
def _openmp() -> ThreadpoolController:
    """The OpenMP libraries of the process, torch's among them."""
    return ThreadpoolController().select(user_api="openmp")


@lru_cache(maxsize=1)
def _mkl() -> Callable[[int], int]:
    """Sets the calling thread's number of MKL threads and returns the one before, 0 where MKL follows OpenMP.

    MKL is a part of torch's library, where threadpoolctl does not see it; builds for other processors have none.
    """
    for library in (Path(torch.__file__).parent / "lib").glob("libtorch_cpu.*"):
        function = getattr(ctypes.CDLL(str(library)), "MKL_Set_Num_Threads_Local", None)
        if function is not None:
            return lambda n: int(function(ctypes.c_int(n)))
    return lambda n: n
