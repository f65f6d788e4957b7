"""What the rows of starts say about each other: pairs with minao's row, ratios, failures, markdown."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.bench.common import Result

# Energies that differ by more than this (hartree) are two solutions.
SAME_ENERGY = 1e-6


@dataclass(frozen=True)
class Pair:
    """A row and minao's row of the same molecule, level and repeat."""

    row: Result
    minao: Result

    @property
    def comparable(self) -> bool:
        """Whether both converged."""
        return self.row.converged and self.minao.converged

    @property
    def cycle_ratio(self) -> float:
        """Cycles over minao's."""
        return self.row.cycles / self.minao.cycles

    @property
    def energy_difference(self) -> float:
        """E - E(minao), hartree."""
        return self.row.energy - self.minao.energy


def pairs(rows: Sequence[Result], start: str) -> list[Pair]:
    """Rows of a start with minao's, where that ran."""
    minao = {(r.level, r.molecule, r.repeat): r for r in rows if r.start == "minao"}
    keys = [(r, (r.level, r.molecule, r.repeat)) for r in rows if r.start == start]
    return [Pair(r, minao[key]) for r, key in keys if key in minao]


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def mean_cell(values: Sequence[float], form: str = ".3f") -> str:
    """Mean, `-` of nothing."""
    return format(float(np.mean(values)), form) if values else "-"


def worst_cell(values: Sequence[float], form: str = ".2f") -> str:
    """Largest value, `-` of nothing."""
    return format(max(values), form) if values else "-"


def served_cell(rows: Sequence[Result]) -> str:
    """Which guesses served how often."""
    counts = Counter(
        " ".join(filter(None, (r.route or "none", r.transfer, "refined" if r.refined else ""))) for r in rows
    )
    return ", ".join(f"{name} {n}" for name, n in counts.most_common())


def energy_cell(found: Sequence[Pair]) -> str:
    """Largest |E - E(minao)| of those that converged to the same solution, and how many did not."""
    differences = [abs(p.energy_difference) for p in found if p.comparable]
    same = [d for d in differences if d <= SAME_ENERGY]
    other = len(differences) - len(same)
    return worst_cell(same, ".0e") + (f", {other} other" if other else "")


def wall_ratios(found: Sequence[Pair]) -> dict[tuple[str, str], float]:
    """Wall time over minao's by level and molecule, means over the repeats in which both converged."""
    mine, minao = defaultdict(list), defaultdict(list)
    for p in found:
        if p.comparable:
            mine[p.row.level, p.row.molecule].append(p.row.seconds)
            minao[p.row.level, p.row.molecule].append(p.minao.seconds)
    return {key: float(np.mean(mine[key]) / np.mean(minao[key])) for key in mine}


def failures(rows: Sequence[Result]) -> list[str]:
    """Everything that did not go as it should, by name, one line each."""
    lines = []
    for start in dict.fromkeys(r.start for r in rows):
        for p in pairs(rows, start):
            where = f"{p.row.level}, {p.row.molecule}, {start}"
            if p.row.error:
                lines.append(f"{where}: {p.row.error}")
                continue
            if start == "minao":
                if not p.row.converged:
                    lines.append(f"{where}: not converged")
                continue
            if not p.row.converged:
                lines.append(f"{where}: not converged" + ("" if p.minao.converged else ", nor is minao"))
            if not p.comparable:
                continue
            if p.row.cycles > p.minao.cycles + 1:
                lines.append(f"{where}: {p.row.cycles} cycles, minao {p.minao.cycles} ({p.row.route})")
            if not abs(p.energy_difference) <= SAME_ENERGY:
                kind = "lower" if p.energy_difference < 0 else "higher"
                lines.append(f"{where}: another solution, {p.energy_difference:+.2e} hartree ({kind})")
    return lines


def failure_list(rows: Sequence[Result]) -> str:
    """The failures as a markdown list."""
    lines = failures(rows)
    return f"failures ({len(lines)}):\n\n" + ("\n".join(f"* {line}" for line in lines) or "* none")


def is_slower(p: Pair) -> bool:
    """Slower than minao by more than one cycle."""
    return p.comparable and p.row.cycles > p.minao.cycles + 1


def lost(p: Pair) -> bool:
    """Not converged, or raised, where minao converges."""
    return p.minao.converged and not p.row.converged


def finite_mean(values: Sequence[float], form: str) -> str:
    """Mean of the values that are numbers."""
    return mean_cell([v for v in values if not math.isnan(v)], form)
