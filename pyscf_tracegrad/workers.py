"""A sum over blocks of work, on as many Python threads as PySCF would use OpenMP ones.

For loops of small matrix products, where numpy lets the interpreter go and a pool of BLAS threads would not pay
(`blas.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from pyscf import lib

Array = NDArray[np.float64]


def sum_over_workers(part: Callable[[int, int], Array], n_blocks: int) -> Array:
    """Sum of `part(first, step)` over workers; each does the blocks first, first + step, ...

    The same to the last digit for the same number of threads. OpenMP has one thread inside a worker; the setting is
    one of each thread, so that of the caller stays.
    """
    workers = max(1, min(lib.num_threads(), n_blocks))
    if workers == 1:
        return part(0, 1)

    def work(first: int) -> Array:
        with lib.with_omp_threads(1):
            return part(first, workers)

    with ThreadPoolExecutor(workers) as pool:
        total = np.sum(list(pool.map(work, range(workers))), axis=0)
    return np.asarray(total)
