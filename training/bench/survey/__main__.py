"""Is the converged energy minao's or lower, and does it converge at all? Small hard calculations from every start.

    python -m training.bench.survey -o runs/survey [--set mctc molpro] [--only 'stretched/H2*' ...] [--table]

One SCF in a process of its own, one thread, PySCF's own settings. Rows go to `results.jsonl` in the folder as they
come; the same command again goes on. Rows of minao, atom and Newton's solver are kept until PySCF changes, ours until
the code or the weights of the package change.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from training.acceleration.work import only_run
from training.bench.survey.cases import CASES, Case, named
from training.bench.survey.pool import Ended, run_each
from training.bench.survey.report import current, report
from training.bench.survey.runs import Route, Row, Task, empty_row, run_task
from training.bench.survey.sets import SETS, read_set
from training.command import command, make_parser, positive
from training.rows import append_json_row, read_json_rows

RESULTS = "results.jsonl"
ROUTES = ("minao", "atom", "minao+newton", "tracegrad", "tracegrad-refine-off")


def missing(cases: Sequence[Case], routes: Sequence[Route], rows: Sequence[Row]) -> list[Task]:
    """What has no row of the code as it is now, case by case."""
    done = {(row.name, row.case, row.start, row.state) for row in rows}
    return [
        (case, route)
        for case in cases
        for route in routes
        if (case.name, case.fingerprint, route.text, route.state) not in done
    ]


def measure(tasks: Sequence[Task], jobs: int, limit_seconds: float) -> Iterator[Row]:
    """Rows as they come."""
    preload = ["training.bench.survey.preload"]
    with tqdm(total=len(tasks), unit="SCF", mininterval=5, desc="survey") as bar:
        for task, row in run_each(run_task, tasks, jobs, limit_seconds, preload):
            bar.update()
            yield empty_row(*task, error=row.reason, cpu=row.cpu) if isinstance(row, Ended) else row


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.survey", __doc__)
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the results; a run there is continued")
    parser.add_argument("--set", nargs="+", choices=("survey", *SETS), default=["survey"], help="what is calculated")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", default=["*"], help="groups, or GROUP/MOLECULE/LEVEL")
    parser.add_argument("--routes", nargs="+", metavar="ROUTE", default=ROUTES, help="NAME[,OPTION=VALUE...][+newton]")
    parser.add_argument("--jobs", type=positive, default=1, help="SCFs at a time, each on one thread")
    parser.add_argument("--limit-seconds", type=float, default=120.0, help="processor time of one SCF")
    parser.add_argument("--table", action="store_true", help="print what there is, run nothing")
    parser.add_argument("--state", default="", help="with --table: our rows of this digest of the package's code")
    parser.add_argument("--list", action="store_true", help="print the names of the cases, run nothing")
    return parser


def chosen(sets: Sequence[str], patterns: Sequence[str]) -> list[Case]:
    """Cases of these sets that match. Raises SetMissing where a package of structures is not installed."""
    cases = [case for name in sets for case in (CASES if name == "survey" else read_set(name))]
    return named(cases, patterns)


def survey(a: argparse.Namespace) -> str:
    """Run what is missing and report, or only report."""
    cases, routes = chosen(a.set, a.only), [Route.parse(text) for text in a.routes]
    if a.list:
        return "\n".join(case.name for case in cases)
    path = a.out / RESULTS
    rows = read_json_rows(path, Row)
    if not a.table:
        a.out.mkdir(parents=True, exist_ok=True)
        with only_run(a.out):
            for row in measure(missing(cases, routes, rows), a.jobs, a.limit_seconds):
                append_json_row(path, row)
        rows = read_json_rows(path, Row)
    return report(current(rows, cases, routes, [_state(route, a.state) for route in routes]), routes)


def _state(route: Route, digest: str) -> str:
    """That of its rows to be shown."""
    return route.state if not (digest and route.ours) else f"{route.state.partition(',')[0]},{digest}"


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    print(survey(options().parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
