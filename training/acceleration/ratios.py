"""What a guess saves against another: QH9's ratios and ours, with intervals, and who is left out of them and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap

from training.acceleration.runs import Row
from training.bench.common import GUESSES
from training.bench.tables import SAME_ENERGY

Array = NDArray[np.float64]

_RESAMPLES = 2000
FEWEST = 5  # molecules; resampling fewer gives hardly more than their smallest and largest value


@dataclass(frozen=True)
class Pair:
    """Two SCFs of one molecule that converged to the same solution: from a guess, and from what it is compared with."""

    row: Row
    reference: Row

    @property
    def achieved(self) -> float:
        """QH9's achieved ratio: steps over steps, both counted from 0."""
        return self.row.steps / self.reference.steps

    @property
    def error_level(self) -> float:
        """QH9's error-level ratio: the first step of the reference run whose Fock matrix, before extrapolation, is
        nearer to the converged one than the prediction is, over its steps; nan where no step is.
        """
        after_cycles = self.reference.path[1 : 1 + self.reference.cycles]
        nearer = [k for k, error in enumerate(after_cycles) if error < self.row.prediction]
        return nearer[0] / self.reference.steps if nearer else math.nan


@dataclass(frozen=True)
class Mean:
    """Mean over molecules with population standard deviation (as QH9 prints) and a bootstrap 95 % interval.

    The interval, low to high, is nan for fewer than FEWEST molecules.
    """

    n: int
    mean: float
    std: float
    low: float
    high: float

    def __str__(self) -> str:
        if not self.n:
            return "-"
        text = f"{self.mean:.3f} ± {self.std:.3f}"
        return f"{text} [{self.low:.3f}, {self.high:.3f}]" if self.has_interval else text

    @property
    def has_interval(self) -> bool:
        """Whether there are molecules enough."""
        return not math.isnan(self.low)


def mean_of(values: Sequence[float]) -> Mean:
    """Mean, spread and interval of values but those that are nan. The interval is of percentiles of resampled means."""
    kept = np.array([v for v in values if not math.isnan(v)])
    if not len(kept):
        return Mean(0, math.nan, math.nan, math.nan, math.nan)
    low = high = float(kept[0]) if len(kept) >= FEWEST else math.nan
    if len(kept) >= FEWEST and np.ptp(kept) > 0:
        generator = np.random.default_rng(0)
        interval = bootstrap(
            (kept,), np.mean, n_resamples=_RESAMPLES, method="percentile", rng=generator
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Mean(len(kept), float(kept.mean()), float(kept.std()), low, high)


@dataclass(frozen=True)
class Saving:
    """What a guess saves against a reference guess on a set of molecules.

    Ratios are below 1 where it saves; means over molecules. cycles: of `mf.cycles`. builds: of Fock builds, those of
    the guess counted in. wall, cpu: with the guess counted in. total_*: ratio of the sums. never: molecules whose
    reference run never came as near as the prediction. slower: by more than one cycle.
    """

    guess: str
    reference: str
    n: int
    achieved: Mean
    error_level: Mean
    cycles: Mean
    builds: Mean
    wall: Mean
    cpu: Mean
    total_cycles: float
    total_wall: float
    never: tuple[str, ...]
    slower: tuple[str, ...]


def pairs(rows: Sequence[Row], guess: str, reference: str) -> list[Pair]:
    """SCFs of a guess with those of the reference guess, of molecules where both converged to the same energy."""
    against = {(r.molecule, r.repeat): r for r in rows if r.guess == reference and r.converged}
    found = []
    for row in rows:
        other = against.get((row.molecule, row.repeat))
        if row.guess == guess and row.converged and other is not None and abs(row.energy - other.energy) <= SAME_ENERGY:
            found.append(Pair(row, other))
    return found


def saving(rows: Sequence[Row], guess: str, reference: str) -> Saving:
    """Figures of one guess against another. A reference run of one cycle has no ratio of steps counted from 0."""
    found = pairs(rows, guess, reference)
    counted = [p for p in found if p.reference.steps > 0]

    def mean(value: Callable[[Row], float]) -> Mean:
        return mean_of([value(p.row) / value(p.reference) for p in found])

    def total(value: Callable[[Row], float]) -> float:
        return sum(value(p.row) for p in found) / sum(value(p.reference) for p in found) if found else math.nan

    return Saving(
        guess=guess,
        reference=reference,
        n=len(found),
        achieved=mean_of([p.achieved for p in counted]),
        error_level=mean_of([p.error_level for p in counted]),
        cycles=mean(lambda r: r.cycles),
        builds=mean(lambda r: r.builds),
        wall=mean(lambda r: r.seconds),
        cpu=mean(lambda r: r.cpu),
        total_cycles=total(lambda r: r.cycles),
        total_wall=total(lambda r: r.seconds),
        never=tuple(p.row.molecule for p in counted if math.isnan(p.error_level)),
        slower=tuple(p.row.molecule for p in found if p.row.cycles > p.reference.cycles + 1),
    )


@dataclass(frozen=True)
class Failure:
    """A molecule that a guess's ratios leave out, or that it does harm to, and why."""

    molecule: str
    guess: str
    reason: str


def failures(rows: Sequence[Row], reference: str = "minao") -> list[Failure]:
    """All that did not go as it should: errors, no convergence, other solutions, slower ones, guesses refused."""
    against = {(r.molecule, r.repeat): r for r in rows if r.guess == reference}
    found = []
    for row in rows:
        reason = _reason(row, against.get((row.molecule, row.repeat)))
        if reason:
            found.append(Failure(row.molecule, row.guess, reason))
    return found


def _reason(row: Row, reference: Row | None) -> str:
    if row.error:
        return row.error
    if reference is row or (reference is not None and not reference.converged):
        reference = None
    if not row.converged:
        return "not converged" + (f", {reference.guess} is" if reference is not None else "")
    if reference is not None:
        if not abs(row.energy - reference.energy) <= SAME_ENERGY:
            return f"another solution, {row.energy - reference.energy:+.2e} hartree against {reference.guess}"
        if row.guess in GUESSES and row.cycles > reference.cycles + 1:  # of PySCF's own it is no failure
            return f"{row.cycles} cycles, {reference.guess} {reference.cycles}"
    return f"guess refused: {row.reason}" if row.served == "minao" and row.guess != "minao" and row.reason else ""
