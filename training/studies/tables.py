"""Tables of a study: means over held-out neutral molecules, then mean and spread over the seeds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from training.bench.tables import markdown
from training.evaluate import Row
from training.studies.trials import Trial

MICRO = 1e6


@dataclass(frozen=True)
class Outcome:
    """Means over the molecules of one trial (or of F_ref): hartree, ov and psi without unit, cycles over minao's.

    ratio: mean over the molecules whose cycles were counted, nan where none was; ions: ov error of the charged ones.
    """

    mae: float
    diagonal: float
    off_diagonal: float
    eps: float
    psi: float
    ov: float
    ratio: float
    ions: float


def outcome(rows: Sequence[Row]) -> Outcome:
    """Means of the rows of one route."""
    neutral = [row for row in rows if row.charge == 0]
    counted = [row.cycles / row.cycles_minao for row in neutral if row.cycles > 0]
    ions = [row.ov for row in rows if row.charge != 0]

    def mean(name: str) -> float:
        return float(np.mean([getattr(row, name) for row in neutral]))

    return Outcome(
        mae=mean("mae"),
        diagonal=mean("mae_diagonal"),
        off_diagonal=mean("mae_off_diagonal"),
        eps=mean("eps"),
        psi=mean("psi"),
        ov=mean("ov"),
        ratio=float(np.mean(counted)) if counted else float("nan"),
        ions=float(np.mean(ions)) if ions else float("nan"),
    )


def outcomes(rows: Sequence[Row]) -> dict[str, Outcome]:
    """By route."""
    routes = dict.fromkeys(row.route for row in rows)
    return {route: outcome([row for row in rows if row.route == route]) for route in routes}


def arms(trials: Sequence[Trial], found: dict[str, Outcome]) -> dict[str, list[Outcome]]:
    """Outcomes of the trained seeds of each arm, in the order of the trials; arms without any are left out."""
    by_arm: dict[str, list[Outcome]] = {}
    for trial in trials:
        if trial.key in found:
            by_arm.setdefault(trial.arm, []).append(found[trial.key])
    return by_arm


def spread(values: Sequence[float], form: str, scale: float = 1.0) -> str:
    """Mean, and with several seeds their standard deviation; nothing where a value is missing."""
    scaled = np.array(values) * scale
    if np.isnan(scaled).any():
        return ""
    text = format(scaled.mean(), form)
    return text if len(scaled) < 2 else f"{text} ± {format(scaled.std(ddof=1), form)}"


_COLUMNS: tuple[tuple[str, Callable[[Outcome], float], str, float], ...] = (
    ("H MAE (µEh)", lambda o: o.mae, ".0f", MICRO),
    ("diagonal", lambda o: o.diagonal, ".0f", MICRO),
    ("off-diagonal", lambda o: o.off_diagonal, ".0f", MICRO),
    ("eps MAE (µEh)", lambda o: o.eps, ".0f", MICRO),
    ("psi (%)", lambda o: o.psi, ".2f", 100.0),
    ("ov (1e-4)", lambda o: o.ov, ".2f", 1e4),
    ("ov, ions (1e-4)", lambda o: o.ions, ".2f", 1e4),
    ("cycles/minao", lambda o: o.ratio, ".3f", 1.0),
)


def arm_table(by_arm: dict[str, list[Outcome]], extra: dict[str, list[str]], names: Sequence[str]) -> str:
    """One line per arm: seeds, all errors, cycles, and extra columns (by arm; headed by `names`)."""
    header = ["arm", "seeds", *(column[0] for column in _COLUMNS), *names]
    lines = []
    for arm, found in by_arm.items():
        cells = [spread([value(o) for o in found], form, scale) for _, value, form, scale in _COLUMNS]
        lines.append([arm, str(len(found)), *cells, *extra.get(arm, [""] * len(names))])
    return markdown(header, lines)


def effects(by_arm: dict[str, list[Outcome]]) -> str:
    """What each part of TraceGrad changes against the baseline of the same loss, seed by seed: ratio of the ov errors
    and of the MAE, mean and spread.
    """
    lines = []
    for loss in ("ov", "plain"):
        base = by_arm.get(f"baseline, {loss}", [])
        for part in ("+Trace", "+Grad", "+TraceGrad"):
            pairs = list(zip(by_arm.get(f"{part}, {loss}", []), base, strict=False))
            if pairs:
                ov = spread([a.ov / b.ov for a, b in pairs], ".3f")
                mae = spread([a.mae / b.mae for a, b in pairs], ".3f")
                lines.append([f"{part}, {loss}", str(len(pairs)), ov, mae])
    return markdown(["against the baseline of the same loss", "seeds", "ov ratio", "MAE ratio"], lines)


@dataclass(frozen=True)
class PowerLaw:
    """y = a (n / n_0)^-b, n_0 the largest number of molecules."""

    a: float
    b: float
    n0: float

    def __call__(self, n: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values at n."""
        return self.a * (n / self.n0) ** -self.b


def fit_power_law(n: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """Least squares in the logarithms."""
    n0 = max(n)
    x, z = np.log(np.array(n) / n0), np.log(np.array(y))
    (log_a, b), _ = curve_fit(lambda x, c, b: c - b * x, x, z)
    return PowerLaw(float(np.exp(log_a)), float(b), n0)


def as_row(o: Outcome) -> list[float]:
    """The numbers of an outcome, in the order of its fields."""
    return [float(v) for v in dataclasses.astuple(o)]
