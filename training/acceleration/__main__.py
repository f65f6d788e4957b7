"""What the guess saves on your molecules: `python -m training.acceleration SET -o DIR`.

SET: a folder of XYZ files, a multi-frame `.xyz`, a label file `.h5` (its validation part), a ragged `.npz`, or a named
set (`qh9-acceleration`: the 50 molecules of QH9's test, of QM9). DIR gets `results.csv`, `report.html`, `report.md` and
`protocol.json`. Every molecule runs from every guess; a row is written as soon as its molecule is done, and the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from data.cluster import connect
from data.errors import JournalError, SetFileError
from training.acceleration.protocol import Protocol, ProtocolError, read_protocol, settle
from training.acceleration.report import write_report
from training.acceleration.runs import DEFAULT, KNOWN
from training.acceleration.sets import NAMED, read_set
from training.acceleration.targets import Targets
from training.acceleration.work import (
    chosen,
    make_tasks,
    only_run,
    read_results,
    run_study,
    with_reference,
    without_failures,
)


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    plain = Protocol()
    p = argparse.ArgumentParser(prog="python -m training.acceleration", description=__doc__.splitlines()[0])
    p.add_argument("set", help=f"folder, .xyz, .h5, .npz, or {', '.join(NAMED)}")
    p.add_argument("-o", "--out", type=Path, required=True, help="folder of the results; an existing one is continued")
    p.add_argument("--guesses", nargs="+", default=DEFAULT, choices=KNOWN, metavar="GUESS", help=", ".join(KNOWN))
    p.add_argument("--xc", default=plain.xc)
    p.add_argument("--basis", default=plain.basis)
    p.add_argument("--grid-level", type=int, default=plain.grid_level)
    p.add_argument("--conv-tol", type=float, default=plain.conv_tol, help="hartree")
    p.add_argument("--max-cycle", type=int, default=plain.max_cycle)
    p.add_argument("--regime", default=plain.regime, choices=("incore", "direct", "df"), help="default: PySCF's choice")
    p.add_argument("--threads", type=int, default=plain.threads, help="of each worker")
    p.add_argument("--shared", action="store_true", help="cycles only: guesses share integrals and grid, no times")
    p.add_argument("--workers", type=int, default=1, help="processes of the local cluster")
    p.add_argument("--memory", type=int, default=5000, help="MB of each process of the local cluster")
    p.add_argument("--scheduler", help="address of a Dask scheduler, instead of a local cluster")
    p.add_argument("--dashboard", action="store_true", help="web pages of the local cluster, on this machine")
    p.add_argument("--repeats", type=int, default=1, help="of every SCF, for wall times")
    p.add_argument("--select", nargs="+", default=["*"], metavar="PATTERN", help="names, as in a shell: 'S66/*'")
    p.add_argument("--max-atoms", type=int, default=0, help="leave larger molecules out; 0: none")
    p.add_argument("--limit", type=int, default=0, help="the first so many molecules; 0: all")
    p.add_argument("--retry-failed", action="store_true", help="run again what raised an error before")
    p.add_argument("--report-only", action="store_true", help="write the report of what is there, run nothing")
    return p


def main(arguments: list[str] | None = None) -> int:
    """Command line; the exit status."""
    a = parser().parse_args(arguments)
    try:
        return _run(a)
    except (ProtocolError, SetFileError, JournalError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(a: argparse.Namespace) -> int:
    if a.report_only:
        protocol, begun_in = read_protocol(a.out)
        print(write_report(a.out, a.set, protocol, begun_in, read_results(a.out)))
        return 0
    if min(a.workers, a.repeats) < 1 or min(a.max_atoms, a.limit) < 0:
        raise ProtocolError("--workers and --repeats must be positive, --max-atoms and --limit not negative")
    molecules = chosen(read_set(a.set), a.select, a.max_atoms, a.limit)
    if not molecules:
        raise ProtocolError(f"{a.set} has no molecule that --select and --max-atoms leave")
    protocol = Protocol(a.xc, a.basis, a.grid_level, a.conv_tol, a.max_cycle, a.regime, a.threads, a.shared)
    begun_in = settle(a.out, protocol)
    with only_run(a.out):
        rows = read_results(a.out)
        if a.retry_failed:
            rows = without_failures(a.out, rows)
        tasks = make_tasks(molecules, protocol, with_reference(a.guesses), a.repeats, rows, Targets(a.out))
        if tasks:
            preload = ("training.acceleration.preload",)
            count = min(a.workers, len(tasks))
            with connect(a.scheduler, count, a.threads, a.memory, preload, a.dashboard) as workers:
                rows = run_study(a.out, workers, tasks, rows)
        print(write_report(a.out, a.set, protocol, begun_in, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
