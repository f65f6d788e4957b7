"""One SCF from one start as one row; rows in a CSV that is continued; worker processes.

A row counts the guess in: `builds` are Fock builds of the user's own kind (those of the guess, the cycles, and the two
that PySCF makes before the first and after the last cycle), `seconds` run from before the guess to the end of the SCF.
Each process is warmed up before its first row: torch is imported, the model loaded, and one guess and one SCF of H2
run, so that no row pays for that.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pyscf import dft, lib, scf
from threadpoolctl import threadpool_limits
from tqdm import tqdm

import pyscf_tracegrad
from pyscf_tracegrad.guess import guess_or_minao
from pyscf_tracegrad.options import GuessOptions
from training.bench.molecules import Molecule
from training.command import positive, worker_pool
from training.rows import append_rows, read_rows

Task = TypeVar("Task")
Measured = TypeVar("Measured")

# Keywords of `tracegrad_guess` by start; `minao` is PySCF's own.
GUESSES: dict[str, dict[str, Any]] = {
    "tracegrad": {},
    "tracegrad-refine-off": {"refine": False},
    "tracegrad-fock": {"refine": False, "transfer": "fock"},
    "tracegrad-density": {"refine": False, "transfer": "density"},
    "reference": {"refine": False, "start": "reference"},
    "minao+refine": {"start": "minao"},
}
STARTS = ("minao", *GUESSES)


@dataclass(frozen=True)
class Result:
    """One SCF from one start. energy: hartree, nan where it failed; cycles, builds: -1 where it failed.

    route, transfer, refined, cheap_builds, exact_builds, gradient, gate, reason: the report of the guess.
    builds: cycles + 2 + exact_builds. guess_seconds, seconds: wall time of the guess, and of the guess and the SCF.
    error: what the guess or the SCF raised; empty where nothing was.
    """

    molecule: str
    level: str
    start: str
    repeat: int
    n_atoms: int
    nao: int
    charge: int
    spin: int
    route: str = ""
    transfer: str = ""
    refined: bool = False
    cycles: int = -1
    converged: bool = False
    builds: int = -1
    cheap_builds: int = 0
    exact_builds: int = 0
    gradient: float = math.nan
    gate: str = ""
    energy: float = math.nan
    guess_seconds: float = math.nan
    seconds: float = math.nan
    reason: str = ""
    error: str = ""

    @property
    def key(self) -> tuple[str, str, str, int]:
        """What makes it another measurement."""
        return (self.level, self.molecule, self.start, self.repeat)


@dataclass(frozen=True)
class Level:
    """How to calculate. regime: `incore` and `direct` (integrals kept, made anew), `df`, or PySCF's choice (empty).

    kind: `R`, `RO`, `U` or `G`, as the names of PySCF's classes begin; empty: R for closed and U for open shells.
    symmetry: of the `Mole`, a point group or whether to find it. settings: attributes of the SCF object; `smearing` is
    Fermi's of that width, hartree.
    """

    name: str
    xc: str = "b3lyp"
    basis: str = "def2-svp"
    regime: str = ""
    kind: str = ""
    symmetry: bool | str = False
    settings: tuple[tuple[str, Any], ...] = ()

    def make_mf(self, molecule: Molecule) -> Any:
        """Fresh SCF object with a fresh molecule. Raises AttributeError for a setting that it does not have.

        PySCF keeps the integrals where `_is_mem_enough`; that is answered for it here, because a lower `max_memory`
        would also make the blocks of the grid small, which a large molecule does not do.
        """
        mol = molecule.mole(self.basis, self.symmetry)
        kind = self.kind or ("U" if mol.spin else "R")
        mf = getattr(scf, f"{kind}HF")(mol) if self.xc == "hf" else getattr(dft, f"{kind}KS")(mol, xc=self.xc)
        if self.regime == "df":
            mf = mf.density_fit()
        elif self.regime:
            keep = self.regime == "incore"
            mf._is_mem_enough = lambda: keep
        for name, value in self.settings:
            if name == "smearing":
                mf = scf.addons.smearing(mf, sigma=value, method="fermi")
            else:
                getattr(mf, name)
                setattr(mf, name, value)
        return mf


@dataclass(frozen=True)
class Job:
    """All starts of one molecule at one level, in this order, in one process."""

    molecule: Molecule
    level: Level
    starts: tuple[str, ...]
    repeat: int = 0

    def key(self, start: str) -> tuple[str, str, str, int]:
        """The key of one of its rows."""
        return (self.level.name, self.molecule.name, start, self.repeat)


def read_report(report: Any) -> dict[str, Any]:
    """The fields of a row that come from a `GuessReport`; what a report of another version lacks is left out."""
    names = ("route", "transfer", "refined", "cheap_builds", "exact_builds", "gradient")
    gate, reason = getattr(report, "gate", {}), getattr(report, "reason", "")
    return {
        **{name: getattr(report, name) for name in names if hasattr(report, name)},
        "gate": " ".join(f"{name}={value:.4g}" for name, value in dict(gate).items()),
        "reason": " ".join(reason.split()),
    }


class Made(NamedTuple):
    """Density of a start, the fields of its report, and the Fock matrix that it was made of, None where none is."""

    dm: Any
    fields: dict[str, Any]
    fock: Any = None


def make_start(mf: Any, start: str, model: str = "") -> Made:
    """One of `GUESSES`, or a guess of PySCF's own. model: path of the network's model; empty: the shipped one."""
    if start not in GUESSES:
        return Made(mf.get_init_guess(mf.mol, start), {"route": start})
    guess = guess_or_minao(mf, GuessOptions(**GUESSES[start]), pyscf_tracegrad.load_model(model) if model else None)
    return Made(guess.dm, read_report(guess.report), guess.fock)


def run_scf(make_mf: Callable[[], Any], start: str, molecule: str = "", level: str = "", repeat: int = 0) -> Result:
    """Guess and SCF of a fresh object. What raises becomes a row with the message."""
    mf = make_mf()
    mol = mf.mol
    fields: dict[str, Any] = {
        "molecule": molecule,
        "level": level,
        "start": start,
        "repeat": repeat,
        "n_atoms": mol.natm,
        "nao": int(mol.nao),
        "charge": int(mol.charge),
        "spin": int(mol.spin),
    }
    try:
        begin = time.perf_counter()
        dm, report, _ = make_start(mf, start)
        fields |= report
        fields["guess_seconds"] = time.perf_counter() - begin
        mf.kernel(dm0=dm)
        fields["seconds"] = time.perf_counter() - begin
        fields |= outcome(mf, fields.get("exact_builds", 0))
    except Exception as error:  # noqa: BLE001  (a failure is a row of the table, whatever it is)
        fields["error"] = message(error)
    return Result(**fields)


def outcome(mf: Any, exact_builds: int) -> dict[str, Any]:
    """Fields of an SCF that has run."""
    cycles = int(mf.cycles)
    return {
        "cycles": cycles,
        "builds": cycles + 2 + exact_builds,
        "converged": bool(mf.converged),
        "energy": float(mf.e_tot),
    }


def message(error: Exception) -> str:
    """An exception in one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def run_job(job: Job) -> list[Result]:
    """Rows of one job."""
    molecule, level = job.molecule, job.level
    make_mf = lambda: level.make_mf(molecule)  # noqa: E731
    return [run_scf(make_mf, start, molecule.name, level.name, job.repeat) for start in job.starts]


def warm_up(threads: int) -> None:
    """Threads of this process, and everything that the first guess and the first SCF would load."""
    import torch

    torch.set_num_threads(threads)
    threadpool_limits(threads)
    lib.num_threads(threads)
    pyscf_tracegrad.load_model()
    import numpy as np

    hydrogen = Molecule("H2", (1, 1), np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]))
    run_job(Job(hydrogen, Level("warm-up"), ("tracegrad-refine-off", "minao")))


def read_results(path: Path | None) -> list[Result]:
    """Results of an earlier, perhaps interrupted, run."""
    return read_rows(path, Result)


def missing(jobs: Sequence[Job], rows: Sequence[Result]) -> list[Job]:
    """Jobs with the starts that have no row yet."""
    done = {r.key for r in rows}
    cut = [dataclasses.replace(j, starts=tuple(s for s in j.starts if j.key(s) not in done)) for j in jobs]
    return [job for job in cut if job.starts]


def run_all(
    function: Callable[[Task], list[Measured]],
    tasks: Sequence[Task],
    out: Path | None,
    workers: int,
    threads: int,
    append: Callable[[Path, Sequence[Measured]], None] = append_rows,
) -> list[Measured]:
    """Rows of all tasks, run by worker processes, appended to `out` as they come."""
    rows: list[Measured] = []
    if not tasks:
        return rows
    context = multiprocessing.get_context("spawn")  # PySCF's and torch's threads do not survive a fork
    with worker_pool(workers, context, warm_up, (threads,)) as pool:
        futures = [pool.submit(function, task) for task in tasks]
        for future in tqdm(as_completed(futures), total=len(futures), unit="mol", mininterval=5):
            found = future.result()
            rows += found
            if out is not None:
                append(out, found)
    return rows


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Options that every command has."""
    parser.add_argument("--out", type=Path, help="CSV of the rows; an existing one is continued")
    parser.add_argument("--summary-only", action="store_true", help="print the tables of --out, run nothing")
    parser.add_argument("--workers", type=positive, default=1, help="processes")
    parser.add_argument("--threads", type=positive, default=1, help="threads per process")


def run_jobs(jobs: Sequence[Job], a: argparse.Namespace) -> list[Result]:
    """Old rows of `--out` and those that were missing."""
    rows = read_results(a.out)
    return rows + run_all(run_job, missing(jobs, rows), a.out, a.workers, a.threads)
