"""Verdicts on the rows of one route against minao's, the table by group, and what went wrong by name."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from training.bench.survey.cases import Case
from training.bench.survey.runs import Route, Row
from training.bench.tables import SAME_ENERGY, Pair, markdown

SAME, ABOVE, LOWER, LOST, GAINED, NEITHER = "same", "above", "lower", "lost", "gained", "neither"
BAD = (ABOVE, LOST)
LEGEND = (
    f"above, lower: both converge, to energies more than {SAME_ENERGY:g} hartree apart. lost: only minao converges. "
    "gained: only this converges. n: cases with a row of both. Numbers between slashes are for these starts in order:"
)


def verdict(row: Row, minao: Row) -> str:
    """What a start did to a case. One that raised, or ran out of time, has not converged."""
    pair = Pair(row, minao)
    if pair.comparable:
        difference = pair.energy_difference
        return SAME if abs(difference) <= SAME_ENERGY else LOWER if difference < 0 else ABOVE
    if row.converged:
        return GAINED
    return LOST if minao.converged else NEITHER


def current(
    rows: Sequence[Row], cases: Sequence[Case], routes: Sequence[Route], states: Sequence[str]
) -> dict[str, dict[str, Row]]:
    """Rows by the name of the case and the route, of cases as they are now, in their order.

    states: by route; of each the newest row counts whose state begins so.
    """
    prints = {case.name: case.fingerprint for case in cases}
    found: dict[str, dict[str, Row]] = {name: {} for name in prints}
    wanted = {route.text: state for route, state in zip(routes, states, strict=True)}
    for row in rows:
        if prints.get(row.name) == row.case and row.start in wanted and row.state.startswith(wanted[row.start]):
            found[row.name][row.start] = row
    return {name: of for name, of in found.items() if of}


def table(found: dict[str, dict[str, Row]], routes: Sequence[Route], start: str) -> str:
    """Line by line a group: how a route compares with minao, and what each route of PySCF's and this one did."""
    order = [route.text for route in routes if not route.ours] + [start]
    kept = {name: of for name, of in found.items() if "minao" in of and start in of}
    groups = dict.fromkeys(name.split("/")[0] for name in kept)
    lines = [
        _line(group, [of for n, of in kept.items() if n.startswith(f"{group}/")], order, start) for group in groups
    ]
    lines.append(_line("all", list(kept.values()), order, start))
    header = ["group", "n", ABOVE, LOST, LOWER, GAINED, "converged", "CPU s", "cycles"]
    return f"{start}\n\n{markdown(header, lines)}\n\n{LEGEND} {' / '.join(order)}."


def _line(group: str, cases: Sequence[dict[str, Row]], order: Sequence[str], start: str) -> list[str]:
    counts = Counter(verdict(of[start], of["minao"]) for of in cases)
    of_each = {name: [of[name] for of in cases if name in of] for name in order}
    converged = [_share(sum(row.converged for row in rows), len(rows), len(cases)) for rows in of_each.values()]
    seconds = [f"{sum(row.cpu for row in rows if not math.isnan(row.cpu)):.0f}" for rows in of_each.values()]
    cycles = [str(sum(max(row.cycles, 0) for row in rows) or "-") for rows in of_each.values()]  # Newton counts none
    kinds = [str(counts[kind]) for kind in (ABOVE, LOST, LOWER, GAINED)]
    return [group, str(len(cases)), *kinds, " / ".join(converged), " / ".join(seconds), " / ".join(cycles)]


def _share(count: int, rows: int, cases: int) -> str:
    """A number of cases, and of how many where a start has not been run for all of them."""
    return str(count) if rows == cases else f"{count} of {rows}"


def bad_lines(found: dict[str, dict[str, Row]], start: str) -> list[str]:
    """One line for each case in which a route is above minao, loses it, or raises; by group, the cheapest first."""
    lines = []
    for name, of in found.items():
        if start not in of or "minao" not in of:
            continue
        row, minao = of[start], of["minao"]
        kind = verdict(row, minao)
        if kind in BAD or row.error:
            lines.append((name.split("/")[0], minao.cpu, f"{name}: {kind}{_how(row, minao, kind)}"))
    order = list(dict.fromkeys(group for group, *_ in lines))
    return [text for *_, text in sorted(lines, key=lambda line: (order.index(line[0]), line[1]))]


def _how(row: Row, minao: Row, kind: str) -> str:
    against = f"minao {_cycles(minao)}, {minao.cpu:.1f} s"
    parts = [row.error] if row.error else []
    if kind == ABOVE:
        parts.append(f"by {row.energy - minao.energy:.2e} ({row.energy:.7f})")
    elif not row.error and minao.converged:
        parts.append(f"ends {row.energy - minao.energy:+.1e} from minao's energy")
    served = " ".join(filter(None, (row.route, row.transfer, "refined" if row.refined else "not refined")))
    builds = f"{row.cheap_builds} cheap, {row.exact_builds} exact builds, gradient {row.gradient:.1e}"
    parts.append(f"{_cycles(row)}, {row.cpu:.1f} s ({against}); {served}, {builds}")
    parts += [row.reason] if row.reason else []
    return " " + "; ".join(parts)


def _cycles(row: Row) -> str:
    return f"{row.cycles} cycles" + ("" if row.converged else " not converged") if row.cycles >= 0 else "raised"


def report(found: dict[str, dict[str, Row]], routes: Sequence[Route]) -> str:
    """All of it."""
    parts = []
    for start in [route.text for route in routes if route.ours] or ["minao"]:
        bad = bad_lines(found, start)
        listed = "\n".join(f"* {line}" for line in bad) or "* none"
        parts.append(f"{table(found, routes, start)}\n\nbad cases ({len(bad)}):\n\n{listed}")
    return "\n\n".join(parts)
