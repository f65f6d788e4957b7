"""The table of every SCF class and option: which guess ran, its cycles and minao's, and whether the energy is the same.

    python -m training.bench.classes --csv CLASSES.csv --out docs/classes.md [--groups class option basis ...]

Each case of `cases.py` runs twice, with `mf.init_guess = 'minao'` and `'tracegrad'`, as a user would.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.bench.cases import CASES, Case
from training.bench.common import Result, message, outcome, read_report, read_results, run_all
from training.bench.tables import SAME_ENERGY, Pair, markdown, pairs
from training.command import command, make_parser, positive

KEYS = ("minao", "tracegrad")
INTRODUCTION = """# Every class and option

By `python -m training.bench.classes --csv CLASSES.csv --out docs/classes.md`: small molecules (formaldehyde or water
where the case does not say), PySCF's default settings, `init_guess='tracegrad'` against `'minao'`. dE is the energy
minus that from minao.

The order of degenerate orbitals is decided by the grid in OH, whose energy agrees to 2e-7 hartree only; GKS OH and
smeared OH end in a lower solution than from minao. The second points of the scanner and of geomeTRIC start from their
own first density, as PySCF does it; `newton()` counts macro cycles. Hartree-Fock with its integrals in memory is
refined by these, so that its builds inside the guess are exact ones.

"""
GROUPS = tuple(dict.fromkeys(case.group for case in CASES))
HEADER = (
    "",
    "case",
    "guess",
    "transfer",
    "refined",
    "cycles",
    "minao's",
    "exact builds in the guess",
    "dE (Eh)",
    "note",
)


class _Counter:
    """SCF callback that counts: `newton()` does not say how many macro cycles it made."""

    def __init__(self) -> None:
        self.n, self.report = 0, None

    def __call__(self, envs: dict[str, Any]) -> None:
        self.n += 1
        self.report = getattr(envs["mf"], "init_guess_report", None) or self.report


def run_case(case: Case, key: str) -> Result:
    """One case with one initial guess. What raises becomes a row with the message."""
    fields: dict[str, Any] = {"molecule": case.name, "level": case.group, "start": key, "repeat": 0}
    fields |= {"n_atoms": 0, "nao": 0, "charge": 0, "spin": 0}
    counter = _Counter()
    try:
        mf = case.make_mf()
        fields |= {"n_atoms": mf.mol.natm, "nao": int(mf.mol.nao)}
        fields |= {"charge": int(mf.mol.charge), "spin": int(mf.mol.spin)}
        mf.init_guess, mf.callback = key, counter
        begin = time.perf_counter()
        ran = case.drive(mf)
        fields["seconds"] = time.perf_counter() - begin
        # that of a series is the one of its first point: PySCF asks for no other guess
        report = (getattr(ran, "init_guess_report", None) or counter.report) if key == "tracegrad" else None
        fields |= {"route": "minao" if key == "minao" else ""} if report is None else read_report(report)
        fields |= outcome(ran, fields.get("exact_builds", 0))
        if fields["cycles"] <= 0:
            fields["cycles"] = counter.n
    except Exception as error:  # noqa: BLE001  (a failure is a row of the table, whatever it is)
        fields["error"] = message(error)
    return Result(**fields)


def run_named(name: tuple[str, str]) -> list[Result]:
    """Both rows of the case of this group and name; cases themselves do not travel between processes."""
    case = next(c for c in CASES if (c.group, c.name) == name)
    return [run_case(case, key) for key in KEYS]


def _energy(p: Pair) -> str:
    if not p.comparable or math.isnan(p.energy_difference):
        return "-"
    return (
        f"{abs(p.energy_difference):.0e}" if abs(p.energy_difference) <= SAME_ENERGY else f"{p.energy_difference:+.1e}"
    )


def _note(p: Pair) -> str:
    notes = [p.row.error, p.row.reason]
    notes += [f"{r.start} not converged" for r in (p.row, p.minao) if not (r.converged or r.error)]
    return "; ".join(filter(None, notes)).replace("|", "/")


def table(rows: Sequence[Result]) -> str:
    """Markdown table, one line per case in the order of `CASES`."""
    order = [(case.group, case.name) for case in CASES]
    found = {(p.row.level, p.row.molecule): p for p in pairs(rows, "tracegrad")}
    lines, last = [], ""
    for key in order:
        if key not in found:
            continue
        p = found[key]
        row, minao = p.row, p.minao
        cycles = [str(r.cycles) if r.cycles >= 0 else "-" for r in (row, minao)]
        cells = ["" if key[0] == last else key[0], row.molecule, row.route or "none", row.transfer]
        cells += ["yes" if row.refined else "", *cycles, str(row.exact_builds), _energy(p), _note(p)]
        lines.append(cells)
        last = key[0]
    return f"{markdown(HEADER, lines)}\n\n{_counts(list(found.values()))}\n"


def _counts(found: Sequence[Pair]) -> str:
    both = [p for p in found if p.comparable]
    other = [p for p in both if not abs(p.energy_difference) <= SAME_ENERGY]
    failed = [p for p in found if p.row.error or (p.minao.converged and not p.row.converged)]
    ratios = [p.cycle_ratio for p in both if p.minao.cycles > 0]
    mean = f", mean cycles/minao {np.mean(ratios):.3f}, worst {max(ratios):.2f}" if ratios else ""
    text = f"{len(found)} cases, {len(failed)} failed where minao did not"
    return f"{text}, {len(other)} with another energy{mean}."


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.classes", __doc__)
    parser.add_argument("--out", type=Path, help="markdown file to write the table to")
    parser.add_argument("--csv", type=Path, help="CSV of the rows; an existing one is continued")
    parser.add_argument("--groups", nargs="+", default=GROUPS, choices=GROUPS, help="of cases")
    parser.add_argument("--summary-only", action="store_true", help="print the table of --csv, run nothing")
    parser.add_argument("--workers", type=positive, default=1, help="processes")
    parser.add_argument("--threads", type=positive, default=1, help="threads per process")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    rows = read_results(a.csv)
    if not a.summary_only:
        done = {(r.level, r.molecule) for r in rows}
        names = [(c.group, c.name) for c in CASES if c.group in a.groups and (c.group, c.name) not in done]
        rows = rows + run_all(run_named, names, a.csv, a.workers, a.threads)
    text = table(rows)
    print(text)
    if a.out:
        a.out.parent.mkdir(parents=True, exist_ok=True)
        a.out.write_text(INTRODUCTION + text)


if __name__ == "__main__":
    sys.exit(main())
