"""Labels per hour of a whole run, by number of workers and by recipe: `python -m data.scaling SET.toml -o DIR`.

The same set is labelled again and again as `data.generate` does it, each time from nothing: by each number of workers
with the fast recipe, and by the largest one with plain runs. Writes DIR/scaling.csv, which an interrupted run goes on
with, and prints a table. A first few labels warm the workers up and are not counted. Give it a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.cluster import connect
from data.errors import JournalError, SetFileError
from data.generate import recipe_text, theory_text
from data.journal import Journal
from data.run import Run
from data.settings import SetFile, Source, read_set
from data.sources import read_sources
from data.structure import Seed
from training.rows import append_rows, read_rows

Recipes = Sequence[tuple[Source, Seed]]


@dataclass(frozen=True)
class Row:
    """One run. labels, failed: structures; seconds: wall time, workers started and warm."""

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
    """Label a set with a number of workers, from nothing, and throw the labels away."""
    warm = recipes[:workers]
    with tempfile.TemporaryDirectory() as folder, connect(None, workers, 1, set_file.labels.memory) as cluster:
        while cluster.count() < workers:
            cluster.tend()
            time.sleep(0.1)
        for name, part in (("warm", warm), ("all", recipes)):
            with Journal(Path(folder) / name, theory_text(set_file)) as journal:
                journal.add_seeds([(seed.name, recipe_text(source, seed)) for source, seed in part])
                start = time.perf_counter()
                by_name = {seed.name: (source, seed) for source, seed in part}
                Run(journal, cluster, by_name, set_file.theory, set_file.labels).work()
                seconds = time.perf_counter() - start
                counts = journal.counts()
    recipe = "exact" if set_file.labels.exact else "fast"
    return Row(workers, recipe, counts.labelled, counts.failed + counts.failed_seeds, seconds)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line for each run; ratios to the first."""
    first = rows[0].per_hour
    lines = ["| workers | recipe | labels | failed | labels per hour | ratio |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r.workers} | {r.recipe} | {r.labels} | {r.failed} | {r.per_hour:.0f} | {r.per_hour / first:.2f} |"
        for r in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m data.scaling", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("set", type=Path, help="set file (TOML)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    a = parser.parse_args()
    try:
        set_file = read_set(a.set)
        recipes = read_sources(set_file)
        done = {(row.workers, row.recipe) for row in read_rows(a.out / "scaling.csv", Row)}
        for workers, exact in [*((w, False) for w in a.workers), (max(a.workers), True)]:
            if (workers, "exact" if exact else "fast") in done:
                continue
            labels = dataclasses.replace(set_file.labels, exact=exact)
            append_rows(
                a.out / "scaling.csv", [measure(dataclasses.replace(set_file, labels=labels), recipes, workers)]
            )
    except (SetFileError, JournalError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(read_rows(a.out / "scaling.csv", Row)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
