"""Evaluate a model on label files: Fock errors and SCF cycles.

    python -m training.evaluate --labels FILE... [--model MODEL.pt] [--routes network reference] [--out RESULTS.csv]

Errors are against the labels; `training/metrics.py` defines them. `network` is the model's matrix, `reference` is F_ref
alone, `guess` the matrix that a guess without refinement hands over: that of the network after its last step, or that
of F_ref where the gate objects. `--scf exact` (default): cycles are those of PySCF at its default settings, minao's
from the label file. `--scf fitted`: both are counted with density fitting and a level-1 grid, two to four times
cheaper; `--scf coarse`: a level-0 grid, five times cheaper than exact, for models whose ov error is well above 1e-4.
`--scf none`: errors only.
Results are written as they come; run again with the same `--out`, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pyscf import gto, lib
from tqdm import tqdm

from pyscf_tracegrad.density import aufbau, diagonalise, make_density
from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.guess import make_guess
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.reference import Reference, build_reference
from training.command import command, make_parser, positive, worker_pool
from training.cycles import NOT_RUN, SCF_CHOICES, CycleCounter, Scf
from training.labels import Label, LabelError, LabelFile
from training.metrics import atoms_of_aos, fock_errors, occupied_virtual_error
from training.rows import append_rows, read_rows

if TYPE_CHECKING:  # torch is loaded by the work, not by the command's help
    from pyscf_tracegrad.checkpoint import Checkpoint

__all__ = ["Row", "evaluate_fock", "evaluate_molecule", "occupied_virtual_error", "summary"]

Array = NDArray[np.float64]
SPLITS = ("val", "train", "test")
ROUTES = ("guess", "network", "reference")


@dataclass(frozen=True)
class Row:
    """One molecule, one route. mae: hartree; ov: rms first-order density error; gap: predicted, hartree.

    cycles, builds: of the SCF from this guess (builds = cycles + 2); cycles_minao: from minao; -1 where not run.
    energy_error: |E - E_label|, with fitted and coarse SCFs |E - E(minao)|, hartree, -1 where not run.
    The fields from mae_diagonal on are those of `metrics.FockErrors`, nan in files of earlier versions; scf: how cycles
    were counted.
    """

    name: str
    route: str
    n_atoms: int
    charge: int
    mae: float
    ov: float
    gap: float
    cycles: int
    builds: int
    cycles_minao: int
    converged: bool
    energy_error: float
    mae_diagonal: float = math.nan
    mae_off_diagonal: float = math.nan
    max_error: float = math.nan
    eps: float = math.nan
    psi: float = math.nan
    homo_error: float = math.nan
    lumo_error: float = math.nan
    gap_error: float = math.nan
    occupied_loss: float = math.nan
    density_error: float = math.nan
    shift: float = math.nan
    mae_shifted: float = math.nan
    mae_diagonal_shifted: float = math.nan
    mae_off_diagonal_shifted: float = math.nan
    max_error_shifted: float = math.nan
    eps_shifted: float = math.nan
    homo_error_shifted: float = math.nan
    lumo_error_shifted: float = math.nan
    scf: str = ""


def evaluate_fock(fock: Array, overlap: Array, route: str, counter: CycleCounter) -> Row:
    """Row of any Fock matrix (nao, nao), hartree, PySCF AO order, for the labelled molecule of a counter.

    overlap (nao, nao): `Reference.overlap` of the molecule. route: name of what made the matrix. counter: of this
    molecule, one for all its matrices. Raises ValueError where the matrices do not fit the molecule.
    """
    label, mol = counter.label, counter.mol
    n_occupied = mol.nelectron // 2
    found = fock_errors(fock, label.full_fock(), overlap, n_occupied, atoms_of_aos(mol))
    orbitals = diagonalise(fock, overlap)
    minao, run, energy_error = counter.minao, NOT_RUN, -1.0
    if counter.scf != "none":
        run = counter.run(make_density(orbitals, aufbau(len(orbitals.energies), mol.nelectron)))
        energy_error = abs(run.energy - (label.energy if counter.scf == "exact" else minao.energy))
    return Row(
        name=label.name,
        route=route,
        n_atoms=mol.natm,
        charge=label.charge,
        gap=float(orbitals.energies[n_occupied] - orbitals.energies[n_occupied - 1]),
        cycles=run.cycles,
        builds=run.cycles + 2 if counter.scf != "none" else -1,
        cycles_minao=minao.cycles,
        converged=run.converged,
        energy_error=energy_error,
        scf=counter.scf,
        **dataclasses.asdict(found),
    )


def network_fock(checkpoint: Checkpoint, mol: gto.Mole, reference: Reference) -> Array:
    """F_ref + dF (nao, nao), hartree, of a model and a reference of its own settings. Ions go through the network too.

    Raises UnsupportedBasis for elements or shells that the model does not know.
    """
    from pyscf_tracegrad.pretrained import correction

    graph = molecule_graph(mol, checkpoint.shells, checkpoint.model.config.cutoff)
    return reference.fock + correction(checkpoint.model, graph, reference)


def evaluate_molecule(
    label: Label,
    basis: str,
    xc: str,
    checkpoint: Checkpoint,
    reference: Reference,
    routes: Sequence[str] = ("network", "reference"),
    scf: Scf = "exact",
) -> list[Row]:
    """Rows of one molecule, one per route: `network`, the model on top of F_ref, `reference`, F_ref alone, or `guess`,
    what `tracegrad_guess(mf, refine=False)` hands over (raises OutsideDomain where that is minao).

    reference: made with the model's settings, by `build_reference` or from the cache (`references.cached_reference`).
    """
    from pyscf_tracegrad.pretrained import PretrainedModel

    mol = label.molecule(basis)
    counter = CycleCounter(label, mol, xc, scf)
    makers: dict[str, Callable[[], Array]] = {
        "network": lambda: network_fock(checkpoint, mol, reference),
        "reference": lambda: reference.fock,
        "guess": lambda: make_guess(mol.RKS(xc=xc), GuessOptions(refine=False), PretrainedModel(checkpoint)).fock,
    }
    return [evaluate_fock(makers[route](), reference.overlap, route, counter) for route in routes]


@dataclass(frozen=True)
class _Task:
    path: str
    index: int
    model: str | None
    routes: tuple[str, ...]
    scf: Scf
    threads: int


def _run(task: _Task) -> list[Row]:
    """Rows of one molecule. Raises LabelError that names file and molecule where the label cannot be used."""
    import torch

    from pyscf_tracegrad.pretrained import load_model

    torch.set_num_threads(task.threads)
    lib.num_threads(task.threads)
    checkpoint = load_model(task.model).checkpoint
    labels = LabelFile(task.path)
    theory = labels.theory
    try:
        label = labels[task.index]
        reference = build_reference(label.molecule(theory.basis), checkpoint.model.config.reference)
        return evaluate_molecule(label, theory.basis, theory.xc, checkpoint, reference, task.routes, task.scf)
    except (ValueError, RuntimeError, OSError) as error:  # as PySCF and HDF5 tell a charge or a number that is wrong
        raise LabelError(f"{task.path}, molecule {labels.names[task.index]}: {error}") from error


def _groups(rows: Sequence[Row]) -> list[tuple[str, str, list[Row]]]:
    """Rows by kind of molecule and route, with both names; empty groups are left out."""
    found = []
    for group, charged in (("neutral", False), ("ions", True)):
        for route in sorted({r.route for r in rows}):
            chosen = [r for r in rows if r.route == route and (r.charge != 0) == charged]
            if chosen:
                found.append((group, route, chosen))
    return found


def summary(rows: Sequence[Row]) -> str:
    """Tables of means per route, neutral molecules and ions apart: cycles, and the paper's metrics where they are."""
    lines = ["| molecules | route | n | H MAE (uEh) | ov error | cycles | minao | cycles/minao | worst | slower |"]
    lines.append("|---" * 10 + "|")
    for group, route, chosen in _groups(rows):
        mean = [f"{np.mean([r.mae for r in chosen]) * 1e6:.0f}", f"{np.mean([r.ov for r in chosen]):.2e}"]
        ran = [r for r in chosen if r.cycles > 0]
        if ran:
            ratios = [r.cycles / r.cycles_minao for r in ran]
            slower = sum(r.cycles > r.cycles_minao for r in ran)
            mean += [f"{np.mean([r.cycles for r in ran]):.2f}", f"{np.mean([r.cycles_minao for r in ran]):.2f}"]
            mean += [f"**{np.mean(ratios):.3f}**", f"{max(ratios):.2f}", str(slower)]
        else:
            mean += ["-"] * 5
        lines.append(f"| {group} | {route} | {len(chosen)} | " + " | ".join(mean) + " |")
    ran = [r for r in rows if r.cycles > 0]
    if ran:
        lines.append(f"\nnot converged: {', '.join(r.name for r in ran if not r.converged) or 'none'}")
        against_minao = "minao's, all with fitting and a coarser grid"
        for against, fitted in (("the labels", False), (against_minao, True)):
            chosen = [r for r in ran if (r.scf in ("fitted", "coarse")) == fitted]
            errors = [r.energy_error for r in chosen if not math.isnan(r.energy_error)]  # labels may have no energies
            if errors:
                lines.append(f"largest energy difference to {against}: {max(errors):.1e} hartree")
    return "\n".join(lines) + _paper_table(rows)


# heading, field of a row, unit in hartree or 1, format
_PAPER: tuple[tuple[str, str, float, str], ...] = (
    ("H", "mae", 1e-6, ".1f"),
    ("diagonal", "mae_diagonal", 1e-6, ".1f"),
    ("off-diagonal", "mae_off_diagonal", 1e-6, ".1f"),
    ("eps", "eps", 1e-6, ".0f"),
    ("psi (%)", "psi", 1e-2, ".2f"),
    ("HOMO", "homo_error", 1e-6, ".0f"),
    ("LUMO", "lumo_error", 1e-6, ".0f"),
    ("gap", "gap_error", 1e-6, ".0f"),
    ("largest", "max_error", 1e-6, ".0f"),
    ("H - mu S", "mae_shifted", 1e-6, ".1f"),
    ("eps - mu", "eps_shifted", 1e-6, ".0f"),
    ("occupied space lost", "occupied_loss", 1.0, ".1e"),
    ("density", "density_error", 1.0, ".1e"),
)


def _paper_table(rows: Sequence[Row]) -> str:
    """Means of the published metrics over molecules; nothing where the rows have none."""
    if all(math.isnan(r.eps) for r in rows):
        return ""
    lines = ["\n\nMean errors in 1e-6 hartree (psi in %, the last two without unit); mu S: best constant potential\n"]
    lines.append("| molecules | route | n | " + " | ".join(heading for heading, *_ in _PAPER) + " |")
    lines.append("|---" * (len(_PAPER) + 3) + "|")
    for group, route, chosen in _groups(rows):
        cells = [group, route, str(len(chosen))]
        for _, name, unit, form in _PAPER:
            values = [value for value in (getattr(r, name) for r in chosen) if not math.isnan(value)]
            cells.append(format(float(np.mean(values)) / unit, form) if values else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _earlier_rows(out: Path | None, scf: Scf) -> list[Row]:
    """Rows of a file that can be continued. Raises ValueError for one with other columns or other SCFs."""
    if out is None or not out.exists():
        return []
    with out.open(newline="") as file:
        columns = next(csv.reader(file), [])
    if columns != [f.name for f in dataclasses.fields(Row)]:
        raise ValueError(f"{out} has the columns of another version; give another --out")
    rows = read_rows(out, Row)
    other = {row.scf for row in rows} - {scf}
    if other:
        raise ValueError(f"{out} was made with --scf {other.pop()}; give the same or another --out")
    return rows


def _tasks(a: argparse.Namespace, done: set[tuple[str, str]]) -> list[_Task]:
    """What has no row yet. Raises LabelError for a file that is none, and where there is no molecule of the split."""
    files = {path: LabelFile(path) for path in a.labels}
    if not any(a.split in labels.splits for labels in files.values()):
        there = ", ".join(sorted({split for labels in files.values() for split in labels.splits})) or "none"
        raise LabelError(f"no molecule of split {a.split!r} in {', '.join(a.labels)}; splits there: {there}")
    tasks = []
    for path, labels in files.items():
        for k in [k for k, split in enumerate(labels.splits) if split == a.split][: a.limit]:
            routes = tuple(route for route in a.routes if (labels.names[k], route) not in done)
            if routes:
                tasks.append(_Task(path, k, a.model, routes, a.scf, a.threads))
    return tasks


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.evaluate", __doc__)
    parser.add_argument("--labels", nargs="+", required=True, metavar="FILE", help="label files (HDF5)")
    parser.add_argument("--model", help="model file; default: the shipped one")
    parser.add_argument("--split", default="val", choices=SPLITS, help="molecules to evaluate")
    parser.add_argument("--routes", nargs="+", default=list(ROUTES), choices=ROUTES, help="whose matrices")
    parser.add_argument("--out", type=Path, metavar="CSV", help="file of the rows; an existing one is continued")
    parser.add_argument("--limit", type=positive, help="only so many molecules of each file")
    parser.add_argument("--workers", type=positive, default=1, help="processes")
    parser.add_argument("--threads", type=positive, default=1, help="threads per process")
    parser.add_argument("--scf", default="exact", choices=SCF_CHOICES, help="how cycles are counted")
    return parser


@command("rows in --out are kept; run the same command again, it goes on where it stopped")
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    rows = _earlier_rows(a.out, a.scf)
    tasks = _tasks(a, {(r.name, r.route) for r in rows})
    with worker_pool(a.workers) as pool:
        for found in tqdm(pool.map(_run, tasks), total=len(tasks), unit="mol", mininterval=5):
            rows += found
            if a.out:
                append_rows(a.out, found)
    print(summary(rows))


if __name__ == "__main__":
    sys.exit(main())
