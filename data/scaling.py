"""Labels per hour of a whole run, by number of workers and by recipe: `python -m data.scaling SET.toml -o DIR`.

The same set is labelled again and again as `data.generate` does it, each time from nothing: by each number of workers
with the fast recipe, and by the largest one with plain runs. Writes DIR/scaling.csv, which an interrupted run goes on
with, and prints a table. A first few labels warm the workers up and are not counted. Give it a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.checks import check_theory
from data.cluster import connect
from data.errors import SetFileError
from data.generate import enter, theory_text, work_off
from data.journal import Journal
from data.settings import SetFile, Source, read_set
from data.sources import read_sources
from data.structure import Seed
from training.command import command, make_parser, positive
from training.rows import append_rows, read_rows

Recipes = Sequence[tuple[Source, Seed]]


@dataclass(frozen=True)
class Row:
    """One run of the set of that name. labels, failed: structures; seconds: wall time, workers started and warm."""

    set_name: str
    workers: int
    recipe: str
    labels: int
    failed: int
    seconds: float

    @property
    def per_hour(self) -> float:
        """Labels per hour."""
        return 3600 * self.labels / self.seconds


def measure(set_file: SetFile, recipes: Recipes, workers: int) -> Row:
    """Label a set with a number of workers, from nothing, and throw the labels away.

    Raises SetFileError with the first reason where no label was made.
    """
    warm = recipes[:workers]
    with tempfile.TemporaryDirectory() as folder, connect(None, workers, 1, set_file.labels.memory) as cluster:
        while cluster.count() < workers:
            cluster.tend()
            time.sleep(0.1)
        for name, part in (("warm", warm), ("all", recipes)):
            with Journal(Path(folder) / name, theory_text(set_file)) as journal:
                enter(journal, part)
                start = time.perf_counter()
                work_off(journal, part, set_file, cluster)
                seconds = time.perf_counter() - start
                counts, failures = journal.counts(), journal.failures({seed.name for _, seed in part})
    recipe = "exact" if set_file.labels.exact else "fast"
    if not counts.labelled:
        reason = f"{failures[0].name}: {failures[0].reason}" if failures else "there was nothing to label"
        raise SetFileError(f"{workers} workers made no label, so there is nothing to time; {reason}")
    return Row(set_file.name, workers, recipe, counts.labelled, counts.failed + counts.failed_seeds, seconds)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each run; ratios to the first."""
    first = rows[0].per_hour or math.nan
    lines = ["| workers | recipe | labels | failed | labels per hour | ratio |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r.workers} | {r.recipe} | {r.labels} | {r.failed} | {r.per_hour:.0f} | {r.per_hour / first:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def _rows(path: Path, set_name: str) -> list[Row]:
    """Rows of one set in a file that may have others. Raises SetFileError for a file of other columns."""
    try:
        return [row for row in read_rows(path, Row) if row.set_name == set_name]
    except (KeyError, TypeError, ValueError):
        raise SetFileError(f"{path}: not a file of this command; move it away, or give -o another folder") from None


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("data.scaling", __doc__)
    parser.add_argument("set", type=Path, help="set file (TOML)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="numbers of processes to compare")
    return parser


@command("runs that ended are kept; run the same command again, it goes on where it stopped")
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    path = a.out / "scaling.csv"
    set_file = read_set(a.set)
    recipes = read_sources(set_file)
    check_theory(set_file.theory, [seed for _, seed in recipes])
    path.parent.mkdir(parents=True, exist_ok=True)
    for workers, exact in [*((w, False) for w in a.workers), (max(a.workers), True)]:
        done = {(row.set_name, row.workers, row.recipe) for row in _rows(path, set_file.name)}
        if (set_file.name, workers, "exact" if exact else "fast") in done:
            continue
        labels = dataclasses.replace(set_file.labels, exact=exact)
        append_rows(path, [measure(dataclasses.replace(set_file, labels=labels), recipes, workers)])
    print(table(_rows(path, set_file.name)))


if __name__ == "__main__":
    sys.exit(main())
