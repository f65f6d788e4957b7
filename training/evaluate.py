"""Evaluate a model on label files: Fock errors and SCF cycles.

    python -m training.evaluate --labels FILE... [--model MODEL.pt] [--routes network reference] [--out RESULTS.csv]

Errors are against the labels; cycles are those of PySCF at its default settings, minao's from the label file.
`network` is the whole model, `reference` is F_ref alone. Results are written as they come; run again with the same
`--out`, it goes on where it stopped. `--no-scf` leaves the cycles out.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, lib
from tqdm import tqdm

from pyscf_tracegrad.density import aufbau, diagonalise, make_density
from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.pretrained import correction, load_model
from pyscf_tracegrad.reference import build_reference
from training.labels import Label, LabelFile
from training.rows import append_rows, read_rows

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Row:
    """One molecule, one route. mae: hartree; ov: rms first-order density error; gap: predicted, hartree.

    cycles, builds: of the SCF from this guess (builds = cycles + 2); cycles_minao: from minao; -1 where not run.
    energy_error: |E - E_label|, hartree, -1 where not run.
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


def occupied_virtual_error(fock: Array, label: Array, overlap: Array, n_occupied: int) -> float:
    """rms of R_ia = (C_occ^T (F - F_label) C_vir)_ia / (e_a - e_i) in the label's orbitals."""
    energies, c = diagonalise(label, overlap)
    in_orbitals = c.T @ (fock - label) @ c
    r = in_orbitals[:n_occupied, n_occupied:] / (energies[None, n_occupied:] - energies[:n_occupied, None])
    return float(np.sqrt(np.mean(r**2)))


def count_cycles(mol: gto.Mole, xc: str, dm0: Array) -> tuple[int, bool, float]:
    """Cycles, convergence and energy (hartree) of an SCF at PySCF's default settings from a density."""
    mf = dft.RKS(mol, xc=xc)
    energy = mf.kernel(dm0=dm0)
    return int(mf.cycles), bool(mf.converged), float(energy)


def evaluate_molecule(label: Label, basis: str, xc: str, model: str | None, routes: list[str], scf: bool) -> list[Row]:
    """Rows of one molecule, one per route."""
    checkpoint = load_model(model).checkpoint
    settings = checkpoint.model.config
    mol = label.molecule(basis)
    reference = build_reference(mol, settings.reference)
    target = label.full_fock()
    n_occupied = mol.nelectron // 2
    cycles_minao = label.cycles_minao
    if scf and cycles_minao < 0:
        cycles_minao = count_cycles(mol, xc, dft.RKS(mol).get_init_guess(mol, "minao"))[0]
    rows = []
    for route in routes:
        fock = reference.fock
        if route == "network":
            graph = molecule_graph(mol, checkpoint.shells, settings.cutoff)
            fock = fock + correction(checkpoint.model, graph, reference)
        orbitals = diagonalise(fock, reference.overlap)
        cycles, converged, error = -1, False, -1.0
        if scf:
            dm = make_density(orbitals, aufbau(len(orbitals.energies), mol.nelectron))
            cycles, converged, energy = count_cycles(mol, xc, dm)
            error = abs(energy - label.energy)
        rows.append(
            Row(
                name=label.name,
                route=route,
                n_atoms=mol.natm,
                charge=label.charge,
                mae=float(np.abs(fock - target).mean()),
                ov=occupied_virtual_error(fock, target, reference.overlap, n_occupied),
                gap=float(orbitals.energies[n_occupied] - orbitals.energies[n_occupied - 1]),
                cycles=cycles,
                builds=cycles + 2 if scf else -1,
                cycles_minao=cycles_minao,
                converged=converged,
                energy_error=error,
            )
        )
    return rows


def _task(task: tuple[str, int, str | None, list[str], bool, int]) -> list[Row]:
    import torch

    path, k, model, routes, scf, threads = task
    torch.set_num_threads(threads)
    lib.num_threads(threads)
    labels = LabelFile(path)
    return evaluate_molecule(labels[k], labels.theory.basis, labels.theory.xc, model, routes, scf)


def summary(rows: list[Row]) -> str:
    """Table of means per route, neutral molecules and ions apart."""
    lines = ["| molecules | route | n | H MAE (uEh) | ov error | cycles | minao | cycles/minao | worst | slower |"]
    lines.append("|---|---|---|---|---|---|---|---|---|---|")
    for group, charged in (("neutral", False), ("ions", True)):
        for route in sorted({r.route for r in rows}):
            chosen = [r for r in rows if r.route == route and (r.charge != 0) == charged]
            if not chosen:
                continue
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
    failed = [r.name for r in rows if r.cycles > 0 and not r.converged]
    if any(r.cycles > 0 for r in rows):
        lines.append(f"\nnot converged: {', '.join(failed) or 'none'}")
        errors = [r.energy_error for r in rows if not np.isnan(r.energy_error)]  # foreign labels may have no energies
        if errors:
            lines.append(f"largest energy difference to the labels: {max(errors):.1e} hartree")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--labels", nargs="+", required=True, help="label files (HDF5)")
    parser.add_argument("--model", help="model file; the shipped one if not given")
    parser.add_argument("--split", default="val", choices=("val", "train"))
    parser.add_argument("--routes", nargs="+", default=["network", "reference"], choices=("network", "reference"))
    parser.add_argument("--out", type=Path, help="CSV of the rows; an existing one is continued")
    parser.add_argument("--limit", type=int, help="only so many molecules of each file")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=1, help="threads per process")
    parser.add_argument("--no-scf", action="store_true", help="errors only")
    a = parser.parse_args()
    rows = read_rows(a.out, Row)
    done = {r.name for r in rows}
    tasks = []
    for path in a.labels:
        labels = LabelFile(path)
        chosen = [k for k, split in enumerate(labels.splits) if split == a.split][: a.limit]
        tasks += [(path, k, a.model, a.routes, not a.no_scf, a.threads) for k in chosen if labels.names[k] not in done]
    with ProcessPoolExecutor(a.workers) as pool:
        for found in tqdm(pool.map(_task, tasks), total=len(tasks), unit="mol", mininterval=5):
            rows += found
            if a.out:
                append_rows(a.out, found)
    print(summary(rows))


if __name__ == "__main__":
    main()
