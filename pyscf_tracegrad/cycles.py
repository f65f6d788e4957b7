"""The cheap SCF of an ordinary molecule: DIIS (Pulay, doi:10.1002/jcc.540030413) over pairs of densities and Fock
matrices of the cheap operator. What does not converge by it is for PySCF's own solvers on that operator (`twin.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf.scf.diis import CDIIS

from pyscf_tracegrad.calculation import Calculation, State
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.reference import Pair

Array = NDArray[np.float64]

# A cheap SCF that gains less than this factor in so many cycles has reached its floor, or does not converge.
_STALL_CYCLES, _STALL_GAIN = 20, 0.7


class Converged(NamedTuple):
    """State that cheap cycles ended with and the gradient norm of the last one that was built, hartree."""

    state: State
    gradient: float


class Cycles:
    """The running cheap SCF."""

    def __init__(self, calculation: Calculation, cheap: CheapFock) -> None:
        self.calculation, self.cheap = calculation, cheap
        self.shift: Array | float = 0.0
        self._pairs: list[Pair] = []
        self._diis = self._new_diis()

    def _new_diis(self) -> Any:
        diis = CDIIS(None, None, self.calculation.orthogonal)
        diis.space, diis.verbose = 10, 0
        return diis

    def _add(self, pair: Pair) -> Any:
        """One more pair into DIIS; returns the extrapolated effective Fock matrix."""
        self._pairs.append(pair)
        total = pair.dm if self.calculation.form != "restricted-open" else pair.dm[0] + pair.dm[1]
        effective = self.calculation.effective(pair.dm, pair.fock + self.shift)
        return self._diis.update(self.calculation.overlap, np.asarray(total), np.asarray(effective))

    def seed(self, pairs: Sequence[Pair]) -> None:
        """Pairs that were paid for already."""
        for pair in pairs:
            self._add(pair)

    def restart(self, shift: Array | float, cheap: CheapFock) -> None:
        """A constant added to the operator; the last pairs start the new DIIS, unless they are of another operator."""
        kept = self._pairs[-3:] if cheap is self.cheap else []
        self.shift, self.cheap, self._pairs, self._diis = shift, cheap, [], self._new_diis()
        self.seed(kept)

    def build(self, state: State) -> Pair:
        """One cheap Fock build."""
        return Pair(state.dm, self.cheap(state.dm))

    def run(self, state: State, pair: Pair, tolerance: float, limit: Callable[[], int]) -> Converged:
        """Cycles from a state and its build until the gradient is below the tolerance; the last step is for free."""
        history: list[float] = []
        best = state
        while True:
            history.append(self.calculation.gradient(state, pair.fock + self.shift))
            extrapolated = self._add(pair)
            if history[-1] < tolerance:
                return Converged(self.calculation.state(extrapolated), history[-1])
            best = state if history[-1] == min(history) else best
            stalled = len(history) > _STALL_CYCLES and min(history[-_STALL_CYCLES:]) > _STALL_GAIN * min(history)
            if limit() <= 0 or stalled:  # the next step is for free, and good where the gradient was falling
                if best is not state:
                    return Converged(best, min(history))
                return Converged(self.calculation.state(extrapolated), history[-1])
            state = self.calculation.state(extrapolated)
            pair = self.build(state)
