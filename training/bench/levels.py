"""Other levels of theory than that of the labels: bases, functionals, cations and radicals.

    python -m training.bench.levels --data STRUCTURES.npz --labels FILE... --out LEVELS.csv --workers 2 [--levels ...]

The same molecules of 8 to 14 atoms for each basis and functional: half of them from the validation split of the label
files, as far as they go, the others from the structures. Cations are these molecules with one electron less at the same
geometry; radicals are the doublets of 6 to 14 atoms among the structures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from training.bench.common import STARTS, Job, Level, Result, add_run_options, read_results, run_jobs
from training.bench.molecules import Molecule, Seen, choose, read_labels, read_npz
from training.bench.tables import (
    energy_cell,
    failure_list,
    finite_mean,
    is_slower,
    lost,
    markdown,
    mean_cell,
    pairs,
    served_cell,
    wall_ratios,
    worst_cell,
)
from training.command import command, make_parser, positive

LEVELS = (
    Level("b3lyp/cc-pvdz", basis="cc-pvdz"),
    Level("b3lyp/6-31g*", basis="6-31g*"),
    Level("b3lyp/def2-tzvp", basis="def2-tzvp"),
    Level("pbe/def2-svp", xc="pbe"),
    Level("pbe0/def2-svp", xc="pbe0"),
    Level("m062x/def2-svp", xc="m062x"),
    Level("tpss/def2-svp", xc="tpss"),
    Level("wb97x/def2-svp", xc="wb97x"),
    Level("hf/def2-svp", xc="hf"),
    Level("cations"),
    Level("radicals"),
)
NAMES = tuple(level.name for level in LEVELS)
NATIVE_BASIS, NATIVE_XC = "def2-svp", "b3lyp"
_TRANSFERS = ("tracegrad-fock", "tracegrad-density")
_STARTS = ("minao", "tracegrad", *_TRANSFERS, "tracegrad-refine-off", "reference")


def starts_of(level: Level, chosen: Sequence[str]) -> tuple[str, ...]:
    """The transfers are told apart only where the network serves and the level is not its own."""
    transferred = level.basis != NATIVE_BASIS or level.xc != NATIVE_XC
    return tuple(s for s in chosen if transferred or s not in _TRANSFERS)


def neutral_molecules(
    structures: Sequence[Molecule],
    held_out: Sequence[Molecule],
    count: int,
    seed: int = 0,
    sizes: tuple[int, int] = (8, 14),
) -> list[Molecule]:
    """Neutral closed shells of 8 to 14 atoms, half of them held out from training as far as there are so many."""

    def wanted(m: Molecule) -> bool:
        return m.closed_shell and m.covered and sizes[0] <= m.n_atoms <= sizes[1]

    seen = Seen(0.02)
    chosen = choose(held_out, count // 2, wanted, seed, seen)
    return chosen + choose(structures, count - len(chosen), wanted, seed, seen)


def radical_molecules(structures: Sequence[Molecule], count: int, seed: int = 0) -> list[Molecule]:
    """Doublets of 6 to 14 atoms."""
    return choose(structures, count, lambda m: m.spin == 1 and m.covered and 6 <= m.n_atoms <= 14, seed)


def summary(rows: Sequence[Result]) -> str:
    """Table by level and start, and all failures."""
    header = ["level", "start", "n", "cycles/minao", "worst", "slower by > 1", "lost", "builds/minao", "cheap builds"]
    header += ["wall/minao", "dE (Eh)", "served"]
    lines = []
    for level in dict.fromkeys(r.level for r in rows):
        mine = [r for r in rows if r.level == level]
        for start in dict.fromkeys(r.start for r in mine):
            found = pairs(mine, start)
            both = [p for p in found if p.comparable]
            ratios = [p.cycle_ratio for p in both]
            cells = [level, start, str(len(found)), mean_cell(ratios), worst_cell(ratios)]
            cells += [str(sum(map(is_slower, found))), str(sum(map(lost, found)))]
            cells += [mean_cell([p.row.builds / p.minao.builds for p in both])]
            cells += [mean_cell([p.row.cheap_builds for p in both], ".1f")]
            cells += [finite_mean(list(wall_ratios(found).values()), ".2f"), energy_cell(found)]
            lines.append([*cells, served_cell([p.row for p in found])])
    return f"{markdown(header, lines)}\n\n{failure_list(rows)}"


def make_jobs(a: argparse.Namespace) -> list[Job]:
    """All jobs that the command line asks for, level by level."""
    structures = read_npz(a.data)
    neutral = neutral_molecules(structures, read_labels(a.labels), a.count, a.seed, tuple(a.atoms))
    jobs = []
    for level in LEVELS:
        if level.name not in a.levels:
            continue
        molecules = neutral
        if level.name == "cations":
            molecules = [m.cation() for m in neutral]
        elif level.name == "radicals":
            molecules = radical_molecules(structures, a.count, a.seed)
        jobs += [Job(m, level, starts_of(level, a.starts)) for m in molecules]
    return jobs


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.levels", __doc__)
    parser.add_argument("--data", required=True, help="structures (ragged npz)")
    parser.add_argument("--labels", nargs="*", default=[], help="label files, for their validation split")
    parser.add_argument(
        "--levels", nargs="+", default=NAMES, choices=NAMES, help="levels of theory and kinds of molecules"
    )
    parser.add_argument("--count", type=positive, default=20, help="molecules of each level")
    parser.add_argument(
        "--atoms", type=int, nargs=2, default=(8, 14), help="fewest and most atoms; radicals have 6 to 14"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn at random")
    parser.add_argument("--starts", nargs="+", default=_STARTS, choices=STARTS, help="guesses")
    add_run_options(parser)
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    print(summary(read_results(a.out) if a.summary_only else run_jobs(make_jobs(a), a)))


if __name__ == "__main__":
    sys.exit(main())
