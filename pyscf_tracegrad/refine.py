"""Refine a guess with cheap SCF cycles, and with one exact build where that pays.

Cheap cycles (`cycles.py`): the SCF of the user's own functional, basis and spin with the cheap operator. Each costs a
tenth of an exact one and gains a factor of about 2.4; the floor of the density-fitted, coarse-grid operator is an
occupied-virtual error of 2 to 3e-6. Where there may be more than one SCF state, or DIIS does not converge, it is
decided here which one goes on (`states.py`).

Exact correction: one build of the user's own operator at the refined density, delta = F_exact[D] - F_cheap[D], and the
cheap SCF converged again with delta added (deferred correction). It removes the floor: what is left is the change of
delta with the density, second order. So the cycles around it may have an even cheaper grid, and single precision
(`CheapFock.thinned`). Where PySCF's own steps enlarge what is left (`handover.py`), more corrections follow, and the
exact gradient decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.calculation import Calculation, State
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.cycles import Converged, Cycles
from pyscf_tracegrad.handover import enlargement, passes, settles, wanted_gradient
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.reference import Pair, diis_errors
from pyscf_tracegrad.states import Choice, lowest, suspicion
from pyscf_tracegrad.twin import Thresholds, Twin

Array = NDArray[np.float64]

# A start whose DIIS error is this much above the best pair's is not taken: the step to it overshot.
_OVERSHOT = 1.5
# Below this HOMO-LUMO gap (hartree) a step of the SCF without DIIS makes the gradient larger: eightfold at 0.04, in the
# dimer cation of S66/02, and tenfold at 0.15 in ozone. PySCF makes such a step at the end and asks for convergence
# after it.
_NARROW, _TIGHTER = 0.2, 0.1
# Largest element of D S D - D of a density that is taken for one of whole occupations.
_WHOLE = 1e-6
# Gradient norm (hartree) above which cheap cycles that have come to their end have not converged.
_HOPELESS = 0.03
# An SCF with a looser energy threshold (hartree) than this ends before the floor of the cheap operator shows.
_LOOSE = 1e-7
# Exact corrections of a calculation whose steps enlarge the gradient, at most; each gains two orders or more.
_CORRECTIONS = 3
# Steps that enlarge a gradient no more than this, as those of ordinary molecules do, need no second correction.
_ORDINARY = 3.0
# Steps that enlarge a gradient so often leave the state whatever its gradient: other orbitals are occupied after them.
_BEYOND_REACH = 1e3
# Cheap builds of the cycles after an exact build of such a calculation, at most.
_AFTER_EXACT = 40


@dataclass(frozen=True)
class Schedule:
    """When to stop.

    floor: gradient norm (hartree) at which the cheap cycles end if no exact build follows. before_exact: that at which
    the exact build is made. after_exact: that of the second cheap SCF; where the gap is narrow a tenth of it and not by
    the thinned operator. limit: cheap builds at most, in all, of an ordinary molecule. exact: whether an exact build is
    made. thin: whether the cycles around it have the thinned operator. careful: whether signs of another state are
    followed up. follow: whether negative curvature is, whatever the signs. chosen: whether the state is the user's own
    choice, not to be compared with the one that minao leads to.
    """

    floor: float = 2e-4
    before_exact: float = 1e-3
    after_exact: float = 1e-5
    limit: int = 40
    exact: bool = True
    thin: bool = True
    careful: bool = True
    follow: bool = False
    chosen: bool = False

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
        return Schedule(floor=0.0, limit=int(options.refine), exact=False, careful=False)
    conv_tol = float(calculation.plain.conv_tol)
    after = float(np.clip(0.5 * np.sqrt(conv_tol), 2e-6, 1e-3))
    exact = allow_exact and conv_tol < _LOOSE
    return Schedule(after_exact=after, exact=exact, follow=options.stable, chosen=options.chosen)


@dataclass(frozen=True)
class Refined:
    """A refined density and what it cost.

    gradient: norm at the last cheap build, hartree; of the exact operator where more than one correction was made.
    rejected: the start was worse than the density before it, and was left. suspicion: why another state was looked for;
    empty where nothing said so, and `choice` is None. enlarged: by how much PySCF's steps enlarge a gradient here, nan
    where it was not measured. settles: whether PySCF's SCF is expected to stay at this state.
    """

    state: State
    gradient: float
    exact_builds: int
    rejected: bool
    seconds: dict[str, float]
    suspicion: str = ""
    choice: Choice | None = None
    enlarged: float = float("nan")
    settles: bool = True

    @property
    def converged(self) -> bool:
        """Whether the cheap SCF is."""
        return self.gradient < _HOPELESS and (self.choice is None or self.choice.converged)

    @property
    def told(self) -> dict[str, Any]:
        """What the report has of the choice of a state, by its names."""
        if self.choice is None:
            return {}
        choice = self.choice
        return {"suspicion": self.suspicion, "origin": choice.origin, "unstable": choice.unstable}

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""
        notes = ["the start was worse than the density before it"] if self.rejected else []
        if self.choice is not None:
            notes += [f"{self.suspicion}: looked for other SCF states", *self.choice.notes]
        return tuple(notes)


def refine(
    calculation: Calculation, cheap: CheapFock, start: State, pairs: Sequence[Pair], schedule: Schedule
) -> Refined:
    """Cheap cycles from a start.

    cheap: operator of the calculation's functional, `calculation.cheap()`. pairs: densities and cheap Fock matrices of
    the same operator, on the grid that `schedule.thinned` asks for, that the start was made of; may be empty.
    """
    if cheap.exact and schedule.exact:  # nothing to correct
        schedule = replace(schedule, exact=False, before_exact=schedule.after_exact, floor=schedule.after_exact)
    return _Refinement(calculation, cheap, schedule).run(start, pairs)


@dataclass
class _Refinement:
    """One refinement under way."""

    calculation: Calculation
    cheap: CheapFock
    schedule: Schedule
    seconds: dict[str, float] = field(default_factory=dict)
    exact_builds: int = 0

    def __post_init__(self) -> None:
        self._first_build = self.cheap.builds
        self._operator = self.cheap.thinned() if self.schedule.thinned else self.cheap
        self._cycles = Cycles(self.calculation, self._operator)

    def run(self, start: State, pairs: Sequence[Pair]) -> Refined:
        """Cheap cycles, the choice of a state where there is one, the exact correction."""
        begin = time.perf_counter()
        with one_blas_thread():
            reason = self._suspicion(start, pairs)
            found, rejected, choice = Converged(start, float("inf")), False, None
            if not reason:
                found, rejected = self._cheap_cycles(start, pairs)
                reason = self._suspicion(start, pairs, found)
            if reason:
                converged, chosen = found.gradient < _HOPELESS, self.schedule.chosen
                choice = lowest(self.calculation, self.cheap, found.state, converged, chosen, self.schedule.follow)
                found = Converged(choice.state, 0.0 if choice.converged else float("inf"))
        self.seconds["cheap cycles"] = time.perf_counter() - begin
        refined = Refined(found.state, found.gradient, 0, rejected, self.seconds, reason, choice)
        if not refined.converged:
            return refined
        if choice is not None:
            return self._settled(refined)
        if self.schedule.exact:
            state, gradient = self._correct_once(found.state)
            return replace(refined, state=state, gradient=gradient, exact_builds=self.exact_builds)
        return refined

    def _suspicion(self, start: State, pairs: Sequence[Pair], found: Converged | None = None) -> str:
        if not self.schedule.careful:
            return ""
        if self.schedule.follow:
            return "stable=True"
        if found is None:
            return suspicion(self.calculation, self._operator, start, pairs)
        if found.gradient >= _HOPELESS:
            return "cheap cycles that did not converge"
        return suspicion(self.calculation, self._operator, start, pairs, found.state, self._builds())

    def _builds(self) -> int:
        return self.cheap.builds - self._first_build

    def _left(self) -> int:
        return self.schedule.limit - self._builds()

    def _cheap_cycles(self, start: State, pairs: Sequence[Pair]) -> tuple[Converged, bool]:
        """The cheap SCF, and whether it left the start for the orbitals of minao's Fock matrix."""
        if self.calculation.form != "restricted-open":  # Roothaan's matrix needs one set of orbitals
            self._cycles.seed([each for each in pairs if _idempotent(each.dm, self.calculation.overlap)])
        pair = self._cycles.build(start)
        rejected = bool(pairs) and self._left() > 0 and _overshot(pair, pairs, self.calculation.overlap)
        if rejected:
            start = self.calculation.first_state(pairs[0].fock)
            pair = self._cycles.build(start)
        tolerance = self.schedule.before_exact if self.schedule.exact else self.schedule.floor
        return self._cycles.run(start, pair, tolerance, self._left), rejected

    def _exact_fock(self, state: State) -> Array:
        begin = time.perf_counter()
        self.calculation.make_room(self._operator)
        exact = self.calculation.exact_fock(state.dm)
        self.seconds["exact build"] = self.seconds.get("exact build", 0.0) + time.perf_counter() - begin
        self.exact_builds += 1
        return exact

    def _correct_once(self, state: State) -> Converged:
        """What is enough where PySCF's steps converge."""
        exact = self._exact_fock(state)
        narrow = state.gap < _NARROW
        last = self.cheap if narrow else self._operator  # PySCF's step enlarges what the thin grid leaves, too
        tolerance = self.schedule.after_exact * (_TIGHTER if narrow else 1.0)
        return self._converge(state, exact, last, tolerance, self._left)

    def _converge(
        self, state: State, exact: Array, operator: CheapFock, tolerance: float, limit: Callable[[], int]
    ) -> Converged:
        """The cheap SCF with the correction that makes it exact at a density."""
        begin = time.perf_counter()
        with one_blas_thread():
            pair = Pair(state.dm, operator(state.dm))
            self._cycles.restart(exact - pair.fock, operator)
            found = self._cycles.run(state, pair, tolerance, limit)
        self.seconds["cheap cycles"] += time.perf_counter() - begin
        return found

    def _settled(self, refined: Refined) -> Refined:
        """Corrections until the exact gradient is small enough for PySCF's steps to enlarge it."""
        calculation, state = self.calculation, refined.state
        thresholds = Thresholds.of(calculation.plain)
        wanted, enlarged, gradient = _TIGHTER * self.schedule.after_exact, float("nan"), refined.gradient
        shift: Array | float = 0.0
        for correction in range(_CORRECTIONS if self.schedule.exact else 1):
            if self.schedule.exact:
                exact = self._exact_fock(state)
                gradient = calculation.gradient(state, exact)
                if correction and gradient < wanted:
                    break
                shift = exact - self.cheap(state.dm)
            state, gradient = self._by_any_means(state, shift, wanted)
            with one_blas_thread():
                enlarged = enlargement(calculation, self.cheap, shift, state)
            wanted = wanted_gradient(thresholds, enlarged)
            if not _ORDINARY < enlarged < _BEYOND_REACH:
                break
        stays = calculation.second_order  # such an SCF makes no steps without a trust region
        if not stays and passes(gradient, thresholds, enlarged):
            with one_blas_thread():
                stays = settles(calculation, self.cheap, shift, state, thresholds)
        return replace(
            refined,
            state=state,
            gradient=gradient,
            exact_builds=self.exact_builds,
            enlarged=enlarged,
            settles=stays,
        )

    def _by_any_means(self, state: State, shift: Array | float, tolerance: float) -> Converged:
        """A state converged with a shifted operator: by DIIS, or by PySCF's second-order solver where that fails."""
        begin, first = time.perf_counter(), self.cheap.builds
        tight = 0.3 * tolerance
        with one_blas_thread():
            pair = Pair(state.dm, self.cheap(state.dm))
            self._cycles.restart(shift, self.cheap)
            found = self._cycles.run(state, pair, tight, lambda: _AFTER_EXACT - (self.cheap.builds - first))
            if found.gradient > tolerance and self.calculation.whole_occupations:
                solved = Twin(self.calculation, self.cheap, shift).newton(state, _AFTER_EXACT, Thresholds(1e-7, tight))
                if solved.converged:
                    gradient = self.calculation.gradient(solved.state, self.cheap(solved.state.dm) + shift)
                    found = Converged(solved.state, gradient)
        self.seconds["cheap cycles"] += time.perf_counter() - begin
        return found


def _idempotent(dm: Any, overlap: Array) -> bool:
    """Whether orbitals are full or empty. Smeared densities in DIIS lead to higher states."""
    scale = 2.0 if np.ndim(dm) == 2 else 1.0
    return bool(np.abs(np.asarray(dm) @ overlap @ dm - scale * np.asarray(dm)).max() < _WHOLE)


def _overshot(pair: Pair, earlier: Sequence[Pair], overlap: Array) -> bool:
    error, *before = diis_errors([pair, *earlier], overlap)
    return error > _OVERSHOT * min(before)
