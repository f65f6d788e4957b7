"""One BLAS thread for a while, for several Python threads at once.

Small matrix products alternate with PySCF's OpenMP kernels in a cheap Fock build: a second pool of BLAS threads, which
spin while they wait, makes a build on two cores slower than on one (0.77 s against 0.41 s for 132 AOs). The number of
BLAS threads belongs to the process, so the last one out restores it; threadpoolctl alone would leave it at one where
two threads overlap.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController


class _Limiter:
    """Counts who is inside. The state is that of the process's BLAS libraries, so there is one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._limit: Any = None

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._limit = ThreadpoolController().limit(limits=1, user_api="blas")

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._limit.restore_original_limits()


_LIMITER = _Limiter()


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """BLAS uses one thread inside; may be nested, and entered by several threads."""
    _LIMITER.enter()
    try:
        yield
    finally:
        _LIMITER.leave()
