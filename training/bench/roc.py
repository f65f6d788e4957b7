"""What a gate's signals tell: rows of measured cases, ROC curves and their areas, limits and what they catch."""

from __future__ import annotations

import csv
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyscf_tracegrad.gate import Gate, Signals
from training.bench.tables import SAME_ENERGY, markdown, mean_cell
from training.rows import append_lines

Array = NDArray[np.float64]
Rule = Callable[["Row"], bool]

ORDINARY = ("validation", "structures")
NOISE = "noise"
_STARTS = ("network", "reference", "minao")
_SMALL_IS_BAD = frozenset(("gap",))
_PREFIX = "signal_"


@dataclass(frozen=True)
class Outcome:
    """How an SCF went. energy: hartree."""

    cycles: int = -1
    converged: bool = False
    energy: float = math.nan

    def worse(self, other: Outcome, margin: int = 0) -> bool:
        """More cycles (by more than `margin`), not converged, or a higher energy, where the other one converges."""
        if not other.converged:
            return False
        return not self.converged or self.cycles > other.cycles + margin or self.energy > other.energy + SAME_ENERGY


@dataclass(frozen=True)
class Row:
    """One case: the gate's signals by name, and the SCF from the network's density, from F_ref's, and from minao."""

    group: str
    name: str
    n_atoms: int
    charge: int
    signals: dict[str, float]
    network: Outcome
    reference: Outcome
    minao: Outcome
    error: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What makes it another case."""
        return (self.group, self.name)

    @property
    def slower(self) -> bool:
        """Whether the network's density is worse than minao's."""
        return self.network.worse(self.minao)

    @property
    def ordinary(self) -> bool:
        """Whether nothing was done to molecule or model."""
        return self.group in ORDINARY


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Append rows to a CSV, which is made where it is missing. Raises ValueError where that has other signals."""
    lines = [_flat(row) for row in rows]
    if path.exists() and lines and path.read_text().splitlines()[0] != ",".join(lines[0]):
        raise ValueError(f"{path} has the signals of another version of the gate")
    append_lines(path, lines)


def _flat(row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {name: getattr(row, name) for name in ("group", "name", "n_atoms", "charge")}
    flat |= {_PREFIX + name: row.signals.get(name, "") for name in Signals.__dataclass_fields__}
    for start in _STARTS:
        flat |= {f"{start}_{name}": value for name, value in vars(getattr(row, start)).items()}
    return flat | {"error": row.error}


def read_rows(path: Path | None) -> list[Row]:
    """Rows of an earlier, perhaps interrupted, run."""
    if path is None or not path.exists():
        return []
    with path.open(newline="") as file:
        return [_parse(line) for line in csv.DictReader(file)]


def _parse(line: dict[str, str]) -> Row:
    parts = [[line[f"{s}_{name}"] for name in Outcome.__dataclass_fields__] for s in _STARTS]
    network, reference, minao = (Outcome(int(n), yes == "True", float(energy)) for n, yes, energy in parts)
    signals = {k.removeprefix(_PREFIX): float(v) for k, v in line.items() if k.startswith(_PREFIX) and v}
    names, sizes = (line["group"], line["name"]), (int(line["n_atoms"]), int(line["charge"]))
    return Row(*names, *sizes, signals, network, reference, minao, line["error"])


def score(name: str, value: float) -> float:
    """A signal's value such that more is worse; not a number is worst."""
    if math.isnan(value):
        return math.inf
    return -value if name in _SMALL_IS_BAD else value


def auc(scores: Sequence[float], bad: Sequence[bool]) -> float:
    """Probability that a bad case has the higher score than a good one, ties half (Mann-Whitney); nan without both."""
    positive = np.asarray(bad, dtype=bool)
    n, m = int(positive.sum()), int((~positive).sum())
    if not n or not m:
        return math.nan
    from scipy.stats import rankdata

    ranks = rankdata(np.asarray(scores, dtype=float))
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * m))


def roc_curve(scores: Sequence[float], bad: Sequence[bool]) -> tuple[Array, Array]:
    """Falsely rejected and caught fractions, from the limit that rejects nothing to the one that rejects all."""
    values, positive = np.asarray(scores, dtype=float), np.asarray(bad, dtype=bool)
    above = values[None, :] >= np.unique(values)[::-1, None]
    false = (above & ~positive).sum(1) / max(int((~positive).sum()), 1)
    caught = (above & positive).sum(1) / max(int(positive.sum()), 1)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], caught])


def extreme(rows: Sequence[Row], name: str, margin: float = 1.0) -> float:
    """The worst value of a signal among rows, loosened by a factor."""
    values = [r.signals[name] for r in rows if math.isfinite(r.signals[name])]
    if not values:
        return math.nan
    if name not in _SMALL_IS_BAD:
        return max(values) * margin
    return min(values) / margin if min(values) > 0 else min(values) * margin


def beyond(name: str, limit: float) -> Rule:
    """Rejects rows of which one signal is beyond its limit."""
    return lambda row: score(name, row.signals[name]) > score(name, limit)


def rejects(gate: Gate) -> Rule:
    """Rejects what the gate rejects."""
    return lambda row: bool(gate.objection(Signals(**row.signals)))


def suggest(rows: Sequence[Row], margin: float) -> Gate:
    """For each signal the loosest limit that keeps the ordinary molecules that are not slower, times a margin."""
    kept = [r for r in rows if r.ordinary and not r.slower]
    found = {name: extreme(kept, name, margin) for name in Signals.__dataclass_fields__}
    return Gate(**{name: float(f"{value:.2g}") for name, value in found.items()})


def usable(rows: Sequence[Row]) -> list[Row]:
    """Rows that say something: nothing raised, and minao converges."""
    return [r for r in rows if not r.error and r.minao.converged]


def group_table(rows: Sequence[Row], gates: dict[str, Gate]) -> str:
    """By group: how often the network and F_ref do harm, cycles over minao's, and how many cases a gate rejects."""
    header = ["group", "n", "slower", "by > 1", "slower than F_ref", "F_ref slower", "cycles/minao", "F_ref"]
    lines = []
    for group in [*dict.fromkeys(r.group for r in rows), "all"]:
        mine = [r for r in rows if group in {r.group, "all"}]
        harm: list[Rule] = [lambda r: r.slower, lambda r: r.network.worse(r.minao, 1)]
        harm += [lambda r: r.network.worse(r.reference), lambda r: r.reference.worse(r.minao)]
        cells = [group, str(len(mine)), *(str(sum(map(rule, mine))) for rule in harm)]
        cells += [mean_cell([getattr(r, s).cycles / r.minao.cycles for r in mine]) for s in _STARTS[:2]]
        lines.append([*cells, *(str(sum(map(rejects(gate), mine))) for gate in gates.values())])
    return markdown([*header, *(f"rejected, {name}" for name in gates)], lines)


def policy_table(rows: Sequence[Row], gates: dict[str, Gate]) -> str:
    """What it costs to take one start always, or another one where a gate rejects the network."""
    policies: dict[str, tuple[Rule, str]] = {"network": (lambda _: False, "minao")}
    policies |= {start: (lambda _: True, start) for start in _STARTS[1:]}
    for name, gate in gates.items():
        policies |= {f"{name}, else {start}": (rejects(gate), start) for start in _STARTS[1:]}
    lines = []
    for name, (rejected, other) in policies.items():
        cells = [name]
        for mine in (rows, [r for r in rows if r.ordinary]):
            taken = [(getattr(r, other) if rejected(r) else r.network, r.minao) for r in mine]
            cells += [mean_cell([x.cycles / minao.cycles for x, minao in taken])]
            cells += [str(sum(x.worse(minao) for x, minao in taken)), str(sum(not x.converged for x, _ in taken))]
        lines.append(cells)
    columns = ["cycles/minao", "slower", "not converged"]
    return markdown(["start", *columns, *(f"ordinary: {c}" for c in columns)], lines)


def auc_table(rows: Sequence[Row]) -> str:
    """Areas under the ROC curves."""
    quiet = [r for r in rows if not r.group.startswith(NOISE)]
    kinds: dict[str, tuple[Sequence[Row], Rule]] = {
        "slower than minao": (rows, lambda r: r.slower),
        "without noise": (quiet, lambda r: r.slower),
        "slower by > 1": (rows, lambda r: r.network.worse(r.minao, 1)),
        "by > 1, without noise": (quiet, lambda r: r.network.worse(r.minao, 1)),
        "slower than F_ref": (rows, lambda r: r.network.worse(r.reference)),
        "than F_ref, without noise": (quiet, lambda r: r.network.worse(r.reference)),
    }
    lines = []
    for name in Signals.__dataclass_fields__:
        areas = [
            auc([score(name, r.signals[name]) for r in mine], [bad(r) for r in mine]) for mine, bad in kinds.values()
        ]
        lines.append([name, *(f"{area:.3f}" for area in areas)])
    counts = [f"{sum(bad(r) for r in mine)} of {len(mine)}" for mine, bad in kinds.values()]
    return markdown(["AUC", *kinds], [*lines, ["bad cases", *counts]])


def limit_table(rows: Sequence[Row], gates: dict[str, Gate]) -> str:
    """What limits catch, miss and falsely reject: each signal alone, then each gate."""
    ordinary = [r for r in rows if r.ordinary]
    lines = []
    for name in Signals.__dataclass_fields__:
        limits = {"no ordinary one rejected": extreme(ordinary, name)}
        limits |= {kind: getattr(gate, name) for kind, gate in gates.items()}
        lines += [[name, kind, f"{v:.3g}", *_counts(rows, beyond(name, v))] for kind, v in limits.items()]
    lines += [["all", kind, "", *_counts(rows, rejects(gate))] for kind, gate in gates.items()]
    return markdown(["signal", "limits", "limit", "caught", "missed", "false: ordinary", "false: others"], lines)


def _counts(rows: Sequence[Row], rejected: Rule) -> list[str]:
    caught = sum(r.slower and rejected(r) for r in rows)
    missed = sum(r.slower for r in rows) - caught
    false = [r for r in rows if rejected(r) and not r.slower]
    ordinary = sum(r.ordinary for r in false)
    return [str(caught), str(missed), str(ordinary), str(len(false) - ordinary)]


def case_line(row: Row) -> str:
    """A case in one line."""
    ways = (f"{s} {o.cycles}{'' if o.converged else ' (no)'}" for s, o in ((s, getattr(row, s)) for s in _STARTS))
    excess = row.network.energy - row.minao.energy
    other = f", dE {excess:+.1e}" if abs(excess) > SAME_ENERGY else ""
    signals = [f"{name}={value:.3g}" for name, value in row.signals.items()]
    return f"* {row.group}, {row.name}: {', '.join(ways)}{other}; {' '.join([*signals, row.error])}".rstrip()


def summary(rows: Sequence[Row], margin: float = 1.5) -> str:
    """All tables, the cases that are slower, and those that say nothing."""
    good, suggested = usable(rows), suggest(usable(rows), margin)
    gates = {"Gate()": Gate(), "suggested": suggested}
    tables = (group_table(good, gates), policy_table(good, gates), auc_table(good), limit_table(good, gates))
    parts = [*tables, f"suggested, {margin:g} times beyond the ordinary molecules that are not slower: {suggested}"]
    lists = {
        "slower than minao": [r for r in good if r.slower],
        "ordinary, not slower, rejected": [r for r in good if r.ordinary and not r.slower and rejects(Gate())(r)],
        "minao does not converge": [r for r in rows if not r.error and not r.minao.converged],
        "errors": [r for r in rows if r.error],
    }
    parts += ["\n".join([f"{what} ({len(mine)}):", "", *map(case_line, mine)]) for what, mine in lists.items()]
    return "\n\n".join(parts)


def plot(rows: Sequence[Row], path: Path) -> None:
    """ROC curves of all signals for 'slower than minao'. Needs matplotlib."""
    plt, good = importlib.import_module("matplotlib.pyplot"), usable(rows)
    bad = [r.slower for r in good]
    figure, axes = plt.subplots(figsize=(5, 5))
    for name in Signals.__dataclass_fields__:
        scores = [score(name, r.signals[name]) for r in good]
        axes.plot(*roc_curve(scores, bad), label=f"{name} ({auc(scores, bad):.2f})")
    axes.set(xlabel="falsely rejected", ylabel="caught", title="slower than minao")
    axes.legend()
    figure.savefig(path, bbox_inches="tight", dpi=150)
