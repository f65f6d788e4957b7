"""One molecule from every guess: what each costs and where its SCF goes."""

from __future__ import annotations

import dataclasses
import gc
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyscf_tracegrad.density import aufbau, diagonalise, make_density
from training.acceleration.instrument import Recorder, mean_error
from training.acceleration.protocol import Protocol
from training.acceleration.shared import SharedParts
from training.bench.common import GUESSES, Made, make_start, message
from training.bench.molecules import Molecule

Array = NDArray[np.float64]

PYSCF = ("minao", "atom", "huckel", "mod_huckel", "vsap", "sap", "1e")
# The converged Fock matrix as if a model had predicted it: the floor of every ratio.
CONVERGED = "converged"
KNOWN = (*GUESSES, *PYSCF, CONVERGED)
DEFAULT = ("minao", "1e", "tracegrad", "tracegrad-refine-off", "reference", "minao+refine", *PYSCF[1:-1])


@dataclass(frozen=True)
class Row:
    """One SCF from one guess.

    served: what the guess came from, by its report. cycles: PySCF's `mf.cycles`; builds: Fock builds of the user's
    kind, cycles + 2 and those of the guess; cheap_builds: those of the guess with the cheap operator. energy: hartree.
    prediction: mean absolute error of the predicted Fock matrix against the converged one of the first guess that
    converged, hartree; that of F[D0] for guesses without a prediction. errors: that of F[D0] and of F after each cycle,
    before extrapolation, separated by blanks; the matrix after cycle c, counted from 0, is number c + 1. Times in
    seconds, wall and processor, of the guess and of the SCF after it. reason: why the guess was refused. error: what
    was raised.
    """

    molecule: str
    guess: str
    repeat: int
    n_atoms: int
    nao: int
    charge: int
    spin: int
    served: str = ""
    cycles: int = -1
    converged: bool = False
    builds: int = -1
    cheap_builds: int = 0
    energy: float = math.nan
    prediction: float = math.nan
    errors: str = ""
    guess_seconds: float = math.nan
    scf_seconds: float = math.nan
    guess_cpu: float = math.nan
    scf_cpu: float = math.nan
    reason: str = ""
    error: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes it another measurement."""
        return (self.molecule, self.guess, self.repeat)

    @property
    def steps(self) -> int:
        """QH9's steps: index of the last cycle, counted from 0."""
        return self.cycles - 1

    @property
    def seconds(self) -> float:
        """Wall time with the guess counted in."""
        return self.guess_seconds + self.scf_seconds

    @property
    def cpu(self) -> float:
        """Processor time with the guess counted in."""
        return self.guess_cpu + self.scf_cpu

    def without_times(self) -> Row:
        """The same with times that are nan."""
        nan = math.nan
        return dataclasses.replace(self, guess_seconds=nan, scf_seconds=nan, guess_cpu=nan, scf_cpu=nan)

    @property
    def path(self) -> list[float]:
        """`errors` as numbers, hartree."""
        return [float(x) for x in self.errors.split()]


@dataclass(frozen=True)
class Task:
    """All guesses of one molecule, in this order, in one process.

    target: converged Fock matrix that all errors are against, hartree. Without one it is that of the first guess, which
    then should be one that converges (`minao`). model: path of the network's model; empty: the shipped one.
    """

    molecule: Molecule
    protocol: Protocol
    guesses: tuple[str, ...]
    repeat: int = 0
    target: Array | None = None
    model: str = ""


@dataclass(frozen=True)
class Outcome:
    """Rows of a task, and the converged Fock matrix that their errors are against; None where nothing converged."""

    rows: list[Row]
    target: Array | None = None


def _start(mf: Any, guess: str, target: Array | None, model: str) -> Made:
    """A guess with those fields of its report that a row keeps, and what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    made = Made(_of_fock(mf, target), {"route": guess}, target) if guess == CONVERGED else make_start(mf, guess, model)
    fields = made.fields
    parts = (fields["route"], fields.get("transfer", ""), "refined" if fields.get("refined") else "")
    kept = {
        "served": " ".join(filter(None, parts)),
        "cheap_builds": fields.get("cheap_builds", 0),
        "builds": fields.get("exact_builds", 0),
        "reason": fields.get("reason", ""),
        "guess_seconds": time.perf_counter() - wall,
        "guess_cpu": time.process_time() - cpu,
    }
    return made._replace(fields=kept)


def _of_fock(mf: Any, fock: Array | None) -> Array:
    """Density of the lowest orbitals of a Fock matrix. Raises ValueError for open shells, and without a matrix."""
    if fock is None:
        raise ValueError("the first guess did not converge, or there was none before")
    if fock.ndim != 2:
        raise ValueError("the converged matrix as a guess is for closed shells")
    orbitals = diagonalise(fock, mf.get_ovlp())
    return make_density(orbitals, aufbau(len(orbitals.energies), mf.mol.nelectron))


def _prediction(fock: Array | None, target: Array) -> float:
    """Mean absolute error, hartree, of the Fock matrix whose orbitals a guess hands over; nan where there is none."""
    return math.nan if fock is None or np.shape(fock) != target.shape else mean_error(fock, target)


def run_guess(
    task: Task, guess: str, target: Array | None, shared: SharedParts | None = None
) -> tuple[Row, list[Array]]:
    """Guess and SCF of a fresh object, and the matrices that it went through where there is no target yet.

    shared: what the object is to share with those before; its times are then nan. What raises becomes a row with the
    message.
    """
    molecule, matrices = task.molecule, list[Array]()
    row = Row(molecule.name, guess, task.repeat, molecule.n_atoms, 0, molecule.charge, molecule.spin)
    try:
        mf = task.protocol.make_mf(molecule)
        if shared is not None:
            shared.give(mf)
        row = dataclasses.replace(row, nao=int(mf.mol.nao))
        start = _start(mf, guess, target, task.model)
        recorder = Recorder(mf, target)
        wall, cpu = time.perf_counter(), time.process_time()
        mf.kernel(dm0=start.dm)
        seconds = time.perf_counter() - wall - recorder.seconds
        cpu_seconds = time.process_time() - cpu - recorder.cpu_seconds
        matrices = recorder.matrices
        goal = matrices[-1] if target is None else target
        path = recorder.errors(goal)
        prediction = _prediction(start.fock, goal)
        fields = start.fields | {
            "builds": int(mf.cycles) + 2 + start.fields["builds"],
            "prediction": path[0] if math.isnan(prediction) else prediction,
        }
        row = dataclasses.replace(
            row,
            cycles=int(mf.cycles),
            converged=bool(mf.converged),
            energy=float(mf.e_tot),
            errors=" ".join(f"{x:.6g}" for x in path),
            scf_seconds=seconds,
            scf_cpu=cpu_seconds,
            **fields,
        )
        if shared is not None:
            row = row.without_times()
    except Exception as error:  # noqa: BLE001  (a failure is a row of the table, whatever it is)
        row = dataclasses.replace(row, error=message(error))
    return row, matrices


def run_task(task: Task) -> Outcome:
    """Rows of one molecule."""
    rows: list[Row] = []
    target = task.target
    shared = SharedParts() if task.protocol.shared else None
    for guess in task.guesses:
        row, matrices = run_guess(task, guess, target, shared)
        gc.collect()  # SCF objects refer to themselves and hold integrals of gigabytes
        rows.append(row)
        if target is None and row.converged:
            target = matrices[-1]
    del shared
    gc.collect()
    return Outcome(rows, target)
