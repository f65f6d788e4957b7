"""Wall time with the guess counted in, where integrals are kept in memory, where they are not, and with fitting.

    python -m training.bench.walltime --data STRUCTURES.npz --out WALLTIME.csv --threads 2 [--regimes incore direct df]

The starts of a molecule run one after the other in one process, forwards in one repeat and backwards in the next; the
times of repeats are averaged. On a quiet machine, with one worker.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from training.bench.common import STARTS, Job, Level, Result, add_run_options, read_results, run_jobs
from training.bench.molecules import Molecule, choose, read_npz
from training.bench.tables import Pair, failure_list, markdown, mean_cell, pairs, wall_ratios, worst_cell
from training.command import command, make_parser, positive

REGIMES = ("incore", "direct", "df")
_STARTS = ("minao", "tracegrad-refine-off", "minao+refine", "tracegrad")


def make_jobs(molecules: Sequence[Molecule], levels: Sequence[Level], starts: Sequence[str], repeats: int) -> list[Job]:
    """All starts of a molecule and level side by side, in the other direction in every other repeat."""
    jobs = []
    for level in levels:
        for molecule in molecules:
            jobs += [Job(molecule, level, tuple(starts)[:: 1 - 2 * (k % 2)], k) for k in range(repeats)]
    return jobs


def _means(found: Sequence[Pair]) -> list[str]:
    rows = [p.row for p in found if p.comparable]
    cells = [mean_cell([r.cycles for r in rows], ".2f"), mean_cell([r.builds for r in rows], ".2f")]
    cells += [mean_cell([r.exact_builds for r in rows], ".2f"), mean_cell([r.cheap_builds for r in rows], ".1f")]
    return [*cells, mean_cell([r.guess_seconds for r in rows], ".2f"), mean_cell([r.seconds for r in rows], ".2f")]


def summary(rows: Sequence[Result]) -> str:
    """Means by level and start, then the same by molecule, and all failures."""
    columns = ["cycles", "builds", "exact in guess", "cheap", "guess (s)", "total (s)", "wall/minao"]
    by_level, by_molecule = [], []
    for level in dict.fromkeys(r.level for r in rows):
        mine = [r for r in rows if r.level == level]
        molecules = dict.fromkeys((r.molecule, r.n_atoms, r.nao) for r in mine)
        for start in sorted({r.start for r in mine}, key=STARTS.index):
            found = pairs(mine, start)
            ratios = list(wall_ratios(found).values())
            worst = worst_cell(ratios)
            by_level.append([level, start, str(len(molecules)), *_means(found), mean_cell(ratios), worst])
        for name, n_atoms, nao in molecules:
            for start in sorted({r.start for r in mine if r.molecule == name}, key=STARTS.index):
                found = [p for p in pairs(mine, start) if p.row.molecule == name]
                ratios = list(wall_ratios(found).values())
                cells = [level, name, str(n_atoms), str(nao), start, *_means(found), mean_cell(ratios)]
                by_molecule.append([*cells, str(len(found))])
    first = markdown(["level", "start", "molecules", *columns, "worst"], by_level)
    second = markdown(["level", "molecule", "atoms", "nao", "start", *columns, "repeats"], by_molecule)
    return f"{first}\n\n{second}\n\n{failure_list(rows)}"


def select(molecules: Sequence[Molecule], min_atoms: int, max_atoms: int, count: int, seed: int = 0) -> list[Molecule]:
    """Neutral closed shells of H C N O F, by size."""
    found = choose(
        molecules, count, lambda m: m.closed_shell and m.covered and min_atoms <= m.n_atoms <= max_atoms, seed
    )
    return [found[k] for k in np.argsort([m.n_atoms for m in found], kind="stable")]


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.walltime", __doc__)
    parser.add_argument("--data", required=True, help="structures (ragged npz)")
    parser.add_argument("--min-atoms", type=int, default=10, help="of the molecules")
    parser.add_argument("--max-atoms", type=int, default=20, help="of the molecules")
    parser.add_argument("--count", type=positive, default=6, help="molecules")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random")
    parser.add_argument("--regimes", nargs="+", default=REGIMES, choices=REGIMES, help="two-electron integrals")
    parser.add_argument("--xc", default="b3lyp", help="functional")
    parser.add_argument("--basis", default="def2-svp", help="basis")
    parser.add_argument("--repeats", type=positive, default=2, help="of every SCF")
    parser.add_argument("--starts", nargs="+", default=_STARTS, choices=STARTS, help="guesses")
    add_run_options(parser)
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    if a.summary_only:
        print(summary(read_results(a.out)))
        return
    levels = [Level(f"{a.xc}/{a.basis} {regime}", a.xc, a.basis, regime) for regime in a.regimes]
    molecules = select(read_npz(a.data), a.min_atoms, a.max_atoms, a.count, a.seed)
    print(summary(run_jobs(make_jobs(molecules, levels, a.starts, a.repeats), a)))


if __name__ == "__main__":
    sys.exit(main())
