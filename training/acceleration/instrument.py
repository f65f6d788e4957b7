"""The Fock matrices that an SCF goes through, before extrapolation."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Recorder:
    """Follows one SCF by its calls of `get_fock` (`pyscf.scf.hf.kernel`).

    Matrices are h + V[D] as the cycles make them, without DIIS, damping and level shift: first that of the starting
    density, then one after each cycle, last that of the converged density, which PySCF makes once more at the end.
    With a target (the converged matrix), only their errors against it are kept, mean absolute values in hartree.

    seconds, cpu_seconds: wall and processor time that the recording itself took.
    """

    def __init__(self, mf: Any, target: Array | None = None) -> None:
        self.target = target
        self.matrices: list[Array] = []
        self._errors: list[float] = []
        self.seconds = self.cpu_seconds = 0.0
        self._get_fock = mf.get_fock
        mf.get_fock = self._record

    def _record(self, h1e: Any, s1e: Any, vhf: Any, dm: Any, cycle: int = -1, *args: Any, **kwargs: Any) -> Any:
        if cycle <= 0:  # within the cycles every matrix comes twice, first at the end of the cycle before
            wall, cpu = time.perf_counter(), time.process_time()
            fock = np.asarray(h1e) + np.asarray(vhf)
            if self.target is None:
                self.matrices.append(fock)
            else:
                self._errors.append(mean_error(fock, self.target))
            self.seconds += time.perf_counter() - wall
            self.cpu_seconds += time.process_time() - cpu
        return self._get_fock(h1e, s1e, vhf, dm, cycle, *args, **kwargs)

    def errors(self, target: Array | None = None) -> list[float]:
        """Mean absolute error, hartree, of each matrix against a target: the one given at first, or this one."""
        if self.target is not None:
            return list(self._errors)
        if target is None:
            raise ValueError("a recorder without a target needs one to tell errors")
        return [mean_error(fock, target) for fock in self.matrices]


def mean_error(fock: Array, target: Array) -> float:
    """Mean absolute difference of two matrices, hartree."""
    return float(np.abs(fock - target).mean())
