"""Time and memory of the guess and its parts against one SCF cycle, from small molecules to large ones.

    python -m training.bench.scaling --data STRUCTURES.npz --out SCALING.csv [--names PATTERN ...] [--max-memory MB]

Each molecule has two processes of its own: one makes the guess without refinement, the other the first two Fock builds
of the SCF from minao: the first one with integrals and grid, and then what one cycle takes, with its diagonalisation.
Peak memory is above what the imports and the model take. An interrupted run is continued.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

import pyscf_tracegrad
from pyscf_tracegrad.cheapfock import fitting_megabytes
from training.bench.common import Level, message, warm_up
from training.bench.molecules import Molecule, named, read_npz
from training.bench.tables import markdown
from training.bench.throughput import in_own_process, memory_bytes
from training.command import command, make_parser, positive
from training.rows import append_rows, read_rows

PARTS = ("guess", "cycle")


@dataclass(frozen=True)
class Job:
    """One part of one molecule. max_memory: MB; threads: of everything."""

    molecule: Molecule
    part: str
    threads: int
    max_memory: int


@dataclass(frozen=True)
class Size:
    """One measurement: the guess (`guess`) or the SCF (`cycle`) of one molecule; what is of the other part is nan.

    pairs: those that the network sees. integrals: MB of the three-centre integrals, or of the four-centre ones. kept:
    whether these are kept in memory. setup, reference, network, gate, diagonalisation: wall seconds of the guess's
    stages; guess: all of it. first: wall seconds of the first Fock build, with integrals and grid; cycle: of one SCF
    cycle, which is one build at the density of the first matrix and a diagonalisation. memory: peak MB. error: what was
    raised.
    """

    molecule: str
    part: str
    n_atoms: int
    nao: int
    threads: int
    max_memory: int
    pairs: int = -1
    integrals: float = math.nan
    kept: bool = False
    setup: float = math.nan
    reference: float = math.nan
    network: float = math.nan
    gate: float = math.nan
    diagonalisation: float = math.nan
    guess: float = math.nan
    first: float = math.nan
    cycle: float = math.nan
    memory: float = math.nan
    error: str = ""

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What makes it another measurement."""
        return (self.molecule, self.part, self.threads, self.max_memory)


def describe(job: Job) -> Size:
    """The row of a job, without figures yet."""
    m = job.molecule
    nao = int(m.mole("def2-svp").nao)
    return Size(m.name, job.part, m.n_atoms, nao, job.threads, job.max_memory)


def measure_guess(job: Job) -> Size:
    """The guess without refinement. Right in a fresh process only: it measures its peak memory."""
    model = pyscf_tracegrad.load_model()
    warm_up(job.threads)
    before = memory_bytes(peak=False)
    mf = Level("").make_mf(job.molecule)
    mf.max_memory = mf.mol.max_memory = job.max_memory
    megabytes = fitting_megabytes(mf.mol)
    begin = time.perf_counter()
    _, report = pyscf_tracegrad.tracegrad_guess(mf, strict=True, refine=False, report=True)
    total = time.perf_counter() - begin
    seconds = report.seconds
    return dataclasses.replace(
        describe(job),
        pairs=int(model.graph(mf.mol).edge_index.shape[1]),
        integrals=megabytes,
        kept=not report.direct,
        setup=seconds["set-up"],
        reference=seconds["F0"] + seconds["G"],
        network=seconds["network"],
        gate=seconds["gate"],
        diagonalisation=seconds["diagonalisation"],
        guess=total,
        memory=1e-6 * (memory_bytes(peak=True) - before),
    )


def measure_cycle(job: Job) -> Size:
    """The first two Fock builds of PySCF's own SCF from minao, by PySCF's choice of keeping the integrals."""
    before = memory_bytes(peak=False)
    mf = Level("").make_mf(job.molecule)
    mf.max_memory = mf.mol.max_memory = job.max_memory
    dm = mf.get_init_guess(mf.mol, "minao")
    hcore, overlap = mf.get_hcore(), mf.get_ovlp()
    begin = time.perf_counter()
    veff = mf.get_veff(mf.mol, dm)
    first = time.perf_counter() - begin
    energies, orbitals = mf.eig(hcore + veff, overlap)
    dm1 = mf.make_rdm1(orbitals, mf.get_occ(energies, orbitals))
    begin = time.perf_counter()
    veff = mf.get_veff(mf.mol, dm1, dm, veff)
    mf.eig(hcore + veff, overlap)
    return dataclasses.replace(
        describe(job),
        integrals=1e-6 * float(mf.mol.nao) ** 4,
        kept=mf._eri is not None,
        first=first,
        cycle=time.perf_counter() - begin,
        memory=1e-6 * (memory_bytes(peak=True) - before),
    )


MEASURES: dict[str, Callable[[Job], Size]] = {"guess": measure_guess, "cycle": measure_cycle}


def run(job: Job) -> Size:
    """Row of a job, in a process of its own; what goes wrong is a row with the message."""
    try:
        return in_own_process(MEASURES[job.part], job, job.threads)
    except Exception as error:  # noqa: BLE001  (a failure is a row of the table, whatever it is)
        return dataclasses.replace(describe(job), error=message(error))


def _cells(size: Size | None, names: Sequence[str]) -> list[str]:
    if size is None:
        return ["-"] * len(names)
    if size.error:
        return [size.error, *["-"] * (len(names) - 1)]
    values = [float(getattr(size, name)) for name in names]
    return [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in values]


def summary(rows: Sequence[Size]) -> str:
    """Markdown table, one line per molecule, by the number of AOs: the guess's parts, the SCF's, and their ratio."""
    by = {row.key: row for row in rows}
    keys = sorted({(r.nao, r.molecule, r.threads, r.max_memory) for r in rows})
    lines = []
    for nao, name, threads, memory in keys:
        guess, cycle = (by.get((name, part, threads, memory)) for part in PARTS)
        either = guess or cycle
        ratio = "-" if guess is None or cycle is None else f"{guess.guess / cycle.cycle:.2f}"
        fitted = "-" if guess is None else "fitted" if guess.kept else "direct"
        kept = "-" if cycle is None else "kept" if cycle.kept else "direct"
        lines.append(
            [
                *(name, str(either.n_atoms if either else "-"), str(nao), str(threads)),
                *("-" if guess is None else str(guess.pairs), fitted),
                *_cells(guess, ("setup", "reference", "network", "gate", "diagonalisation", "guess", "memory")),
                kept,
                *_cells(cycle, ("first", "cycle", "memory")),
                ratio,
            ]
        )
    header = ["molecule", "atoms", "AOs", "threads", "pairs", "J and K", "set-up, s", "F_ref, s", "network, s"]
    header += ["gate, s", "orbitals, s", "guess, s", "peak MB", "SCF's integrals", "first build, s", "cycle, s"]
    return markdown([*header, "peak MB", "guess / cycle"], lines)


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.scaling", __doc__)
    parser.add_argument("--data", help="structures (ragged npz)")
    parser.add_argument("--names", nargs="+", default=["*"], help="patterns of names, as in a shell")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what is measured")
    parser.add_argument("--max-atoms", type=int, default=170, help="of the molecules")
    parser.add_argument("--max-memory", type=int, default=4000, help="MB")
    parser.add_argument("--threads", type=positive, default=1, help="of everything")
    parser.add_argument("--out", type=Path, required=True, help="CSV of the rows; an existing one is continued")
    parser.add_argument("--summary-only", action="store_true", help="print the table of --out, run nothing")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    rows = read_rows(a.out, Size)
    if not a.summary_only:
        if a.data is None:
            raise ValueError("give structures with --data")
        molecules = [m for m in named(read_npz(a.data), a.names) if m.covered and m.closed_shell]
        molecules = [m for m in molecules if m.n_atoms <= a.max_atoms]
        molecules.sort(key=lambda m: m.n_atoms)
        done = {row.key for row in rows}
        jobs = [Job(m, part, a.threads, a.max_memory) for m in molecules for part in a.parts]
        for job in tqdm([job for job in jobs if describe(job).key not in done], unit="run"):
            rows.append(run(job))
            append_rows(a.out, rows[-1:])
    print(summary(rows))


if __name__ == "__main__":
    sys.exit(main())
