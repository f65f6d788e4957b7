"""Labels of a set: `python -m data.generate SET.toml -o LABELS.h5`.

Results are kept in LABELS.journal as they come. Stop it at any time, or lose it to anything, and run the same command
again: it goes on. The label file is written at the end, or from what there is by `--export`; failures and their reasons
are printed and stand in LABELS.failed.csv.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from data.apart import check_split
from data.checks import check_theory
from data.cluster import Workers, connect, memory_limit
from data.errors import SetFileError
from data.journal import Failure, Journal
from data.labelfile import Attributes, write_labels
from data.run import Run
from data.settings import SetFile, Source, read_set
from data.sources import read_sources
from data.splits import assign
from data.structure import LabelRow, Seed
from training.command import command, make_parser, positive

_EMPTY_FILE = 200_000  # bytes


def recipe_text(source: Source, seed: Seed) -> str:
    """What decides which structures are made of a molecule; the file that it comes from does not."""
    keys = ["relax", "frames", "ions"]
    keys += ["seed"] if seed.smiles or source.frames or source.ions else []
    keys += ["temperature", "interval"] if source.frames else []
    keys += ["sites", "neutral"] if source.ions else []
    made = {k: v for k, v in asdict(source).items() if k in keys} | {"smiles": seed.smiles}
    if seed.structure is not None:
        s = seed.structure
        made["geometry"] = hashlib.sha256(s.atomic_numbers.tobytes() + s.positions.round(6).tobytes()).hexdigest()
        made["charge"] = s.charge
    return repr(sorted(made.items()))


def theory_text(set_file: SetFile) -> str:
    """What all labels of a file share."""
    t, labels = set_file.theory, set_file.labels
    text = f"{t.xc}/{t.basis}".lower() + f", grid level {t.grid_level}, orbital gradient below {labels.gradient:g}"
    return text + (", exact" if labels.exact else "") + (", cycles_minao" if labels.cycles_minao else "")


def attributes(set_file: SetFile) -> Attributes:
    """Attributes of the label file of a set."""
    theory, labels = set_file.theory, set_file.labels
    kinds = ", ".join(dict.fromkeys(source.kind for source in set_file.source))
    return Attributes(
        xc=theory.xc,
        basis=theory.basis,
        grid_level=theory.grid_level,
        conv=f"orbital gradient norm < {labels.gradient:g}",
        source=f"set {set_file.name!r} ({kinds})",
        recipe="exact" if labels.exact else "deferred correction",
    )


def export(set_file: SetFile, recipes: Sequence[tuple[Source, Seed]], journal: Journal, out: Path) -> int:
    """Write the label file from the journal, in the order of the set; returns the number of labels.

    Splits are decided over all structures that were made, labelled or not, so that they do not move as the run goes on.
    """
    structures = [s for _, seed in recipes for s in journal.structures(seed.name)]
    splits = assign(set_file.split, structures)
    if set_file.split.kind != "train" and "val" not in splits:
        print(f"note: split.kind {set_file.split.kind!r} leaves nothing for validation", file=sys.stderr)

    def rows() -> Iterator[tuple[LabelRow, str]]:
        for structure, split in zip(structures, splits, strict=True):
            row = journal.label(structure.name)
            if row is not None:
                yield row, split

    # both are deflated alike; the rest is what an empty file takes
    return write_labels(out, attributes(set_file), rows(), room=journal.size() + _EMPTY_FILE)


def write_failures(path: Path, failures: Sequence[Failure]) -> None:
    """Failures with their reasons as CSV; no file where there are none."""
    path.unlink(missing_ok=True)
    if not failures:
        return
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("kind", "name", "reason"))
        writer.writerows((f.kind, f.name, f.reason) for f in failures)


def enter(journal: Journal, recipes: Sequence[tuple[Source, Seed]]) -> None:
    """Enter the molecules of a set into its journal. Raises JournalError as `Journal.add_seeds`."""
    journal.add_seeds([(seed.name, recipe_text(source, seed)) for source, seed in recipes])


def work_off(journal: Journal, recipes: Sequence[tuple[Source, Seed]], set_file: SetFile, workers: Workers) -> None:
    """Prepare and label what the journal has of a set and has not done. Raises JournalError as `Run.work`."""
    by_name = {seed.name: (source, seed) for source, seed in recipes}
    Run(journal, workers, by_name, set_file.theory, set_file.labels).work()


def generate(set_file: SetFile, out: Path, a: argparse.Namespace) -> int:
    """Read the molecules, do what is left of the run, write the label file; returns the number of labels."""
    recipes = read_sources(set_file)
    check_theory(set_file.theory, [seed for _, seed in recipes])
    path = out.with_suffix(".journal")
    if a.export and not path.exists():
        raise SetFileError(f"there is nothing to export: no {path}")
    if not a.export:
        check_split(set_file.split, recipes)
    with Journal(path, theory_text(set_file)) as journal:
        enter(journal, recipes)
        if a.retry_failed:
            journal.retry_failed()
        if not a.export:
            with connect(a.scheduler, a.workers, a.threads, set_file.labels.memory, dashboard=a.dashboard) as workers:
                work_off(journal, recipes, set_file, workers)
        failures = journal.failures({seed.name for _, seed in recipes})
        n = export(set_file, recipes, journal, out) if journal.size() else 0
    failed = out.with_suffix(".failed.csv")
    write_failures(failed, failures)
    print(f"{out}: {n} labels; {len(failures)} failed{f', see {failed}' if failures else ''}")
    for failure in failures[:10]:
        print(f"  {failure.reason.removeprefix(f'{failure.name}: ')} ({failure.name})")
    return n


def check_out(out: Path) -> None:
    """Raises SetFileError for a path that cannot be a label file: its journal would overwrite something else."""
    if out.suffix not in (".h5", ".hdf5") or out.is_dir():
        raise SetFileError(f"-o is a label file, NAME.h5, not {str(out)!r}")


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("data.generate", __doc__)
    parser.add_argument("set", type=Path, help="set file (TOML)")
    parser.add_argument("-o", "--out", type=Path, required=True, help="label file (HDF5)")
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=positive, default=cores, help="processes of the local cluster")
    parser.add_argument("--threads", type=positive, default=1, help="threads of each; pays for large molecules only")
    parser.add_argument("--scheduler", help="address of a running Dask scheduler, instead of a local cluster")
    parser.add_argument("--dashboard", action="store_true", help="web pages of the local cluster, on this machine")
    parser.add_argument("--exact", action="store_true", help="label by plain runs instead of the fast recipe")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    what.add_argument("--export", action="store_true", help="only write the label file from what there is")
    return parser


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt


@command("results so far are kept, run the same command to go on")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit status 0, 1 for a run without any label, 2 for an error, 130 for an interruption."""
    a = options().parse_args(arguments)
    check_out(a.out)
    set_file = read_set(a.set)
    if a.exact:
        set_file = replace(set_file, labels=replace(set_file.labels, exact=True))
    limit = memory_limit(set_file.labels.memory)
    if a.scheduler is None and not a.export:
        print(f"{a.workers} workers of {a.threads} threads and at most {limit} MB each", file=sys.stderr)
    return 0 if generate(set_file, a.out, a) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    sys.exit(main())
