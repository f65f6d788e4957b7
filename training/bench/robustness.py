"""Does the guess ever do harm: cycles, convergence and energies on structures that nobody chose for it.

    python -m training.bench.robustness --data STRUCTURES.npz [--labels FILE...] --out ROBUSTNESS.csv --workers 2

B3LYP/def2-SVP from minao, the guess without refinement, and the guess as it is by default. The seed decides on the
structures: neutral closed shells, closed-shell ions, and open shells (UKS); H C N O F only, none twice, none of the
molecules in the label files.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from training.bench.common import STARTS, Job, Level, Result, add_run_options, read_results, run_jobs
from training.bench.molecules import Molecule, Seen, choose, read_labels, read_npz
from training.bench.tables import (
    energy_cell,
    failure_list,
    is_slower,
    lost,
    markdown,
    mean_cell,
    pairs,
    served_cell,
    worst_cell,
)
from training.command import command, make_parser

GROUPS = ("neutral", "ions", "radicals")
DEFAULT_STARTS = ("minao", "tracegrad-refine-off", "tracegrad")
_SMALL = 4  # fewer atoms than this


def group(molecule: Molecule | Result) -> str:
    """One of `GROUPS`; radicals are all open shells, charged or not."""
    if molecule.spin:
        return "radicals"
    return "ions" if molecule.charge else "neutral"


def select(
    molecules: Sequence[Molecule],
    counts: dict[str, int],
    max_atoms: int = 20,
    max_small: int = 20,
    trained: Sequence[Molecule] = (),
    seed: int = 0,
) -> list[Molecule]:
    """Structures of each group, none twice, none of `trained`, at most `max_small` of fewer than four atoms in all."""
    training, seen = Seen(0.05, trained, electrons=False), Seen(0.02)
    chosen: list[Molecule] = []
    for name in GROUPS:
        left = max_small - sum(m.n_atoms < _SMALL for m in chosen)
        count, candidates = counts[name], _limited(molecules, name, max_atoms, left, training, seen, seed)
        chosen += choose(candidates, count, lambda _: True, seed, seen)
    return chosen


def _limited(
    molecules: Sequence[Molecule], name: str, max_atoms: int, left: int, training: Seen, seen: Seen, seed: int
) -> list[Molecule]:
    """Candidates of a group, with as many small ones as are left to take."""

    def wanted(m: Molecule) -> bool:
        return group(m) == name and m.covered and m.n_atoms <= max_atoms and m not in training and m not in seen

    def small(m: Molecule) -> bool:
        return wanted(m) and m.n_atoms < _SMALL

    kept = {m.name for m in choose(molecules, left, small, seed)}
    return [m for m in molecules if wanted(m) and (m.n_atoms >= _SMALL or m.name in kept)]


def summary(rows: Sequence[Result]) -> str:
    """Table by group and start, and all failures."""
    header = ["molecules", "start", "n", "cycles/minao", "worst", "builds/minao", "slower by > 1", "lost", "dE (Eh)"]
    lines = []
    for name in GROUPS:
        mine = [r for r in rows if group(r) == name]
        for start in dict.fromkeys(r.start for r in mine):
            found = pairs(mine, start)
            both = [p for p in found if p.comparable]
            cells = [name, start, str(len(found)), mean_cell([p.cycle_ratio for p in both])]
            cells += [worst_cell([p.cycle_ratio for p in both])]
            cells += [mean_cell([p.row.builds / p.minao.builds for p in both])]
            cells += [_count(is_slower, found), _count(lost, found), energy_cell(found)]
            lines.append([*cells, served_cell([p.row for p in found])])
    legend = "lost: not converged where minao converges. other: converged to another solution."
    return f"{markdown([*header, 'served'], lines)}\n\n{legend}\n\n{failure_list(rows)}"


def _count(what: Callable[..., bool], found: Sequence[object]) -> str:
    return str(sum(map(what, found)))


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.robustness", __doc__)
    parser.add_argument("--data", required=True, help="structures (ragged npz)")
    parser.add_argument("--labels", nargs="*", default=[], help="label files whose molecules are left out")
    parser.add_argument("--neutral", type=int, default=150, help="so many neutral molecules")
    parser.add_argument("--ions", type=int, default=25, help="so many closed-shell ions")
    parser.add_argument("--radicals", type=int, default=25, help="so many open shells")
    parser.add_argument("--max-atoms", type=int, default=20, help="of the molecules")
    parser.add_argument("--max-small", type=int, default=20, help="structures with fewer than four atoms")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random")
    parser.add_argument("--starts", nargs="+", default=DEFAULT_STARTS, choices=STARTS, help="guesses")
    add_run_options(parser)
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    if a.summary_only:
        print(summary(read_results(a.out)))
        return
    counts = {"neutral": a.neutral, "ions": a.ions, "radicals": a.radicals}
    trained = read_labels(a.labels, split=None)
    molecules = select(read_npz(a.data), counts, a.max_atoms, a.max_small, trained, a.seed)
    level = Level("b3lyp/def2-svp")
    print(summary(run_jobs([Job(m, level, tuple(a.starts)) for m in molecules], a)))


if __name__ == "__main__":
    sys.exit(main())
