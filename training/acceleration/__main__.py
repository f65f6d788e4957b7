"""What the guess saves on your molecules: `python -m training.acceleration SET -o DIR`.

SET: a folder of XYZ files, a multi-frame `.xyz`, a label file `.h5` (its validation part), a ragged `.npz`, or a named
set (`qh9-acceleration`: the 50 molecules of QH9's test, of QM9). DIR gets `results.csv`, `report.html`, `report.md` and
`protocol.json`. Every molecule runs from every guess; a row is written as soon as its molecule is done, and the same
command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from data.cluster import connect
from training.acceleration.protocol import Protocol, ProtocolError, own_model, read_protocol, settle
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
from training.command import command, make_parser, positive


def options() -> argparse.ArgumentParser:
    """Command line."""
    plain = Protocol()
    p = make_parser("training.acceleration", __doc__)
    p.add_argument("set", help=f"folder, .xyz, .h5, .npz, or {', '.join(NAMED)}")
    p.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="of the results; an existing one is continued"
    )
    p.add_argument("--guesses", nargs="+", default=DEFAULT, choices=KNOWN, metavar="GUESS", help=", ".join(KNOWN))
    p.add_argument("--model", type=Path, help="model file of the guesses by the network; default: the shipped one")
    p.add_argument("--xc", default=plain.xc, help="functional by PySCF's name, or hf")
    p.add_argument("--basis", default=plain.basis, help="by PySCF's name")
    p.add_argument("--grid-level", type=int, default=plain.grid_level, help="PySCF's, 0 to 9")
    p.add_argument("--conv-tol", type=float, default=plain.conv_tol, help="hartree")
    p.add_argument("--max-cycle", type=int, default=plain.max_cycle, help="cycles after which an SCF is given up")
    p.add_argument(
        "--regime", default=plain.regime, choices=("incore", "direct", "df"),
        help="two-electron integrals kept, made in every cycle, or fitted; default: PySCF's choice by memory",
    )  # fmt: skip
    p.add_argument("--threads", type=positive, default=plain.threads, help="of each worker")
    p.add_argument("--shared", action="store_true", help="cycles only: guesses share integrals and grid, no times")
    p.add_argument("--workers", type=positive, default=1, help="processes of the local cluster")
    p.add_argument("--memory", type=positive, default=5000, help="MB of each process of the local cluster")
    p.add_argument("--scheduler", help="address of a Dask scheduler, instead of a local cluster")
    p.add_argument("--dashboard", action="store_true", help="web pages of the local cluster, on this machine")
    p.add_argument("--repeats", type=positive, default=1, help="of every SCF, for wall times")
    p.add_argument("--select", nargs="+", default=["*"], metavar="PATTERN", help="names, as in a shell: 'S66/*'")
    p.add_argument("--max-atoms", type=int, default=0, help="leave larger molecules out; 0: none")
    p.add_argument("--limit", type=int, default=0, help="the first so many molecules; 0: all")
    p.add_argument("--retry-failed", action="store_true", help="run again what raised an error before")
    p.add_argument("--report-only", action="store_true", help="write the report of what is there, run nothing")
    return p


@command("molecules that are done are kept; run the same command again, it goes on where it stopped")
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    from training.acceleration.report import write_report  # matplotlib

    if a.report_only:
        protocol, begun_in = read_protocol(a.out)
        print(write_report(a.out, a.set, protocol, begun_in, read_results(a.out)))
        return
    if min(a.max_atoms, a.limit) < 0:
        raise ProtocolError("--max-atoms and --limit cannot be negative")
    molecules = chosen(read_set(a.set), a.select, a.max_atoms, a.limit)
    if not molecules:
        raise ProtocolError(f"{a.set} has no molecule that --select and --max-atoms leave")
    model = own_model(a.model)
    levels = (a.xc, a.basis, a.grid_level, a.conv_tol, a.max_cycle, a.regime, a.threads, a.shared)
    protocol = Protocol(*levels, model=model.name)
    begun_in = settle(a.out, protocol)
    with only_run(a.out):
        rows = read_results(a.out)
        if a.retry_failed:
            rows = without_failures(a.out, rows)
        tasks = make_tasks(molecules, protocol, with_reference(a.guesses), a.repeats, rows, Targets(a.out), model.path)
        if tasks:
            preload = ("training.acceleration.preload",)
            count = min(a.workers, len(tasks))
            with connect(a.scheduler, count, a.threads, a.memory, preload, a.dashboard) as workers:
                rows = run_study(a.out, workers, tasks, rows)
        print(write_report(a.out, a.set, protocol, begun_in, rows))


if __name__ == "__main__":
    sys.exit(main())
