"""Refine a guess with cheap SCF cycles, and with one exact build where that pays.

Cheap cycles: the SCF of the user's own functional, basis and spin with the cheap operator, DIIS (Pulay,
doi:10.1002/jcc.540030413) seeded with the pairs (D_k, F[D_k]) that the reference has paid for. Each cycle costs a fifth
of an exact one and gains a factor of about 2.4; the floor of the density-fitted, coarse-grid operator is an
occupied-virtual error of 2 to 3e-6.

Exact correction: one build of the user's own operator at the refined density, delta = F_exact[D] - F_cheap[D], and the
cheap SCF converged again with delta added (deferred correction). It removes the floor: what is left is the change of
delta with the density, second order. So the cycles around it may have an even cheaper grid, and single precision
(`CheapFock.thinned`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf.scf.diis import CDIIS

from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.calculation import Calculation, State
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.reference import Pair, diis_errors

Array = NDArray[np.float64]

# A candidate start whose DIIS error is this much above the best pair's is not taken: the step to it overshot.
_OVERSHOT = 1.5
# A cheap SCF that gains less than this factor in so many cycles has reached its floor, or does not converge.
_STALL_CYCLES = 20
# Below this HOMO-LUMO gap (hartree) a step of the SCF without DIIS makes the gradient larger: eightfold at 0.04, in the
# dimer cation of S66/02, and tenfold at 0.15 in ozone. PySCF makes such a step at the end and asks for convergence
# after it.
_NARROW, _TIGHTER = 0.2, 0.1
# Gradient norm (hartree) above which cheap cycles that have come to their end are not worth an exact build.
_HOPELESS = 0.03
# An SCF with a looser energy threshold (hartree) than this ends before the floor of the cheap operator shows.
_LOOSE = 1e-7


@dataclass(frozen=True)
class Schedule:
    """When to stop.

    floor: gradient norm (hartree) at which the cheap cycles end if no exact build follows. before_exact: that at which
    the exact build is made. after_exact: that of the second cheap SCF; where the gap is narrow a tenth of it and not by
    the thinned operator. limit: cheap builds at most, in all. exact: whether an exact build is made. thin: whether the
    cycles around it have the thinned operator.
    """

    floor: float = 2e-4
    before_exact: float = 1e-3
    after_exact: float = 1e-5
    limit: int = 40
    exact: bool = True
    thin: bool = True

    @property
    def thinned(self) -> bool:
        """Whether all that comes before the exact build may have the thinned operator."""
        return self.exact and self.thin


def schedule_for(calculation: Calculation, options: GuessOptions, allow_exact: bool) -> Schedule | None:
    """Schedule that the options ask for; None without refinement.

    allow_exact: whether the user's own operator may be applied. The exact build pays where the SCF is to be converged
    tightly; a loose one ends before the cheap operator's floor shows.
    """
    if options.unrefined:
        return None
    if options.refine != "auto":
        return Schedule(floor=0.0, limit=int(options.refine), exact=False)
    conv_tol = float(calculation.plain.conv_tol)
    after = float(np.clip(0.5 * np.sqrt(conv_tol), 2e-6, 1e-3))
    return Schedule(after_exact=after, exact=allow_exact and conv_tol < _LOOSE)


@dataclass(frozen=True)
class Refined:
    """A refined density and what it cost. gradient: cheap gradient norm at the last build, hartree.

    rejected: the start was worse than a pair that was there before, and was left.
    """

    state: State
    gradient: float
    exact_builds: int
    rejected: bool
    seconds: dict[str, float]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""
        return ("the start was worse than the steps before it",) if self.rejected else ()


class _Cycles:
    """The running cheap SCF: DIIS over pairs of densities and Fock matrices."""

    def __init__(self, calculation: Calculation, cheap: CheapFock) -> None:
        self.calculation, self.cheap = calculation, cheap
        self.shift: Array | float = 0.0
        self.pairs: list[Pair] = []
        self.diis = self._new_diis()

    def _new_diis(self) -> Any:
        diis = CDIIS(None, None, self.calculation.orthogonal)
        diis.space, diis.verbose = 10, 0
        return diis

    def seed(self, pairs: Sequence[Pair]) -> Any:
        """Put pairs into DIIS; returns the extrapolated matrix."""
        extrapolated = None
        for pair in pairs:
            extrapolated = self.add(pair)
        return extrapolated

    def add(self, pair: Pair) -> Any:
        """One more pair into DIIS; returns the extrapolated effective Fock matrix."""
        self.pairs.append(pair)
        total = pair.dm if self.calculation.form != "restricted-open" else pair.dm[0] + pair.dm[1]
        effective = self.calculation.effective(pair.dm, pair.fock + self.shift)
        return self.diis.update(self.calculation.overlap, np.asarray(total), np.asarray(effective))

    def restart(self, shift: Array, cheap: CheapFock) -> None:
        """A constant added to the operator; the last pairs start the new DIIS, unless they are of another operator."""
        kept = self.pairs[-3:] if cheap is self.cheap else []
        self.shift, self.cheap, self.pairs, self.diis = shift, cheap, [], self._new_diis()
        self.seed(kept)

    def build(self, state: State) -> Pair:
        """One cheap Fock build."""
        return Pair(state.dm, self.cheap(state.dm))

    def run(self, state: State, pair: Pair, tolerance: float, limit: Callable[[], int]) -> tuple[State, float]:
        """Cycles from a state and its build until the gradient is below the tolerance; the last step is for free."""
        history: list[float] = []
        best = state
        while True:
            history.append(self.calculation.gradient(state, pair.fock + self.shift))
            extrapolated = self.add(pair)
            if history[-1] < tolerance:
                return self.calculation.state(extrapolated), history[-1]
            best = state if history[-1] == min(history) else best
            stalled = len(history) > _STALL_CYCLES and min(history[-_STALL_CYCLES:]) > 0.7 * min(history)
            if limit() <= 0 or stalled:  # the next step is for free, and good where the gradient was falling
                return (
                    (best, min(history)) if best is not state else (self.calculation.state(extrapolated), history[-1])
                )
            state = self.calculation.state(extrapolated)
            pair = self.build(state)


def _overshot(pair: Pair, earlier: Sequence[Pair], overlap: Array) -> bool:
    error, *before = diis_errors([pair, *earlier], overlap)
    return error > _OVERSHOT * min(before)


def refine(
    calculation: Calculation, cheap: CheapFock, start: State, pairs: Sequence[Pair], schedule: Schedule
) -> Refined:
    """Cheap cycles from a start.

    cheap: operator of the calculation's functional, `calculation.cheap()`. pairs: densities and cheap Fock matrices of
    the same operator, on the grid that `schedule.thinned` asks for, for DIIS; may be empty.
    """
    begin, first_build = time.perf_counter(), cheap.builds
    tolerance = schedule.before_exact if schedule.exact else schedule.floor
    if cheap.exact and schedule.exact:  # nothing to correct
        tolerance, schedule = schedule.after_exact, replace(schedule, exact=False)
    first = cheap.thinned() if schedule.thinned else cheap
    cycles, limit = _Cycles(calculation, first), schedule.limit

    def left() -> int:
        return limit - (cheap.builds - first_build)

    seeded = [] if calculation.form == "restricted-open" else list(pairs)  # Roothaan's matrix needs one set of orbitals
    with one_blas_thread():
        extrapolated = cycles.seed(seeded)
        pair = cycles.build(start)
        rejected = bool(seeded) and left() > 0 and _overshot(pair, seeded, calculation.overlap)
        if rejected:
            start = calculation.state(extrapolated)
            pair = cycles.build(start)
        state, gradient = cycles.run(start, pair, tolerance, left)
    seconds = {"cheap cycles": time.perf_counter() - begin}
    exact_builds = 0
    if schedule.exact and gradient < _HOPELESS:
        begin = time.perf_counter()
        calculation.make_room(cycles.cheap)
        exact = calculation.exact_fock(state.dm)
        seconds["exact build"] = time.perf_counter() - begin
        exact_builds = 1
        begin = time.perf_counter()
        narrow = state.gap < _NARROW
        last = cheap if narrow else cycles.cheap  # PySCF's step enlarges what the thin grid leaves, too
        tolerance = schedule.after_exact * (_TIGHTER if narrow else 1.0)
        with one_blas_thread():
            pair = Pair(state.dm, last(state.dm))
            cycles.restart(exact - pair.fock, last)
            state, gradient = cycles.run(state, pair, tolerance, left)
        seconds["cheap cycles"] += time.perf_counter() - begin
    return Refined(state, gradient, exact_builds, rejected, seconds)
