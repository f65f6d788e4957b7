"""Rows and tables of an evaluation; SCFs of the smallest molecules only."""

from __future__ import annotations

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from network_helpers import SAP, TABLE, random_model
from pyscf import dft, gto, lib

from pyscf_tracegrad.checkpoint import Checkpoint, save_checkpoint
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.density import aufbau, diagonalise, make_density
from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.pretrained import correction
from pyscf_tracegrad.reference import build_reference
from training import evaluate
from training.cycles import CycleCounter, Scf, make_mf
from training.evaluate import Row, evaluate_fock, evaluate_molecule, summary
from training.labels import Label
from training.metrics import FockErrors, atoms_of_aos, fock_errors
from training.rows import append_rows, read_rows

BASIS, XC = "def2-svp", "pbe"
CONFIG = ModelConfig(reference=SAP, channels=4, layers=1, radial=4, invariants=4, trace_hidden=4)


@pytest.fixture(scope="module")
def label() -> Label:
    """Hydrogen fluoride, converged by PySCF."""
    mol = gto.M(atom="F 0 0 0; H 0.1 0 0.9", basis=BASIS, verbose=0)
    mf = dft.RKS(mol, xc=XC)
    energy = mf.kernel()
    fock = lib.pack_tril(mf.get_fock()).astype(np.float32)
    return Label("HF", mol.atom_charges(), mol.atom_coords(), 0, fock, float(energy), 7, "val")


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(random_model(CONFIG, spread=0.01), TABLE, XC, BASIS)


def row(name: str = "a", route: str = "network", charge: int = 0, **values: object) -> Row:
    first = {"mae": 1e-4, "ov": 2e-4, "gap": 0.3, "cycles": 6, "builds": 8, "cycles_minao": 10, "converged": True}
    return Row(name=name, route=route, n_atoms=3, charge=charge, **{"energy_error": 1e-9, **first, **values})


def test_a_row_has_every_metric_and_its_old_fields_first() -> None:
    names = [f.name for f in dataclasses.fields(Row)]
    assert names[:6] == ["name", "route", "n_atoms", "charge", "mae", "ov"]
    assert names[6:12] == ["gap", "cycles", "builds", "cycles_minao", "converged", "energy_error"]
    assert {f.name for f in dataclasses.fields(FockErrors)} <= set(names)


def test_row_of_a_fock_matrix_has_its_metrics(label: Label) -> None:
    mol = label.molecule(BASIS)
    overlap, target = mol.intor("int1e_ovlp"), label.full_fock()
    fock = target + 1e-3 * np.diag(np.arange(mol.nao))
    found = evaluate_fock(fock, overlap, "mine", CycleCounter(label, mol, XC, "none"))
    expected = fock_errors(fock, target, overlap, 5, atoms_of_aos(mol))
    assert {k: getattr(found, k) for k in dataclasses.asdict(expected)} == dataclasses.asdict(expected)
    energies = diagonalise(fock, overlap).energies
    assert found.gap == pytest.approx(energies[5] - energies[4])
    assert (found.name, found.route, found.n_atoms, found.charge, found.scf) == ("HF", "mine", 2, 0, "none")
    assert (found.cycles, found.builds, found.cycles_minao, found.converged, found.energy_error) == (
        -1,
        -1,
        7,
        False,
        -1,
    )


def test_exact_cycles_are_those_of_pyscf_and_minaos_those_of_the_label(label: Label) -> None:
    mol = label.molecule(BASIS)
    fock, overlap = mol.intor("int1e_kin") + mol.intor("int1e_nuc"), mol.intor("int1e_ovlp")
    found = evaluate_fock(fock, overlap, "core", CycleCounter(label, mol, XC))
    mf = dft.RKS(mol, xc=XC)
    mf.kernel(dm0=make_density(diagonalise(fock, overlap), aufbau(mol.nao, mol.nelectron)))
    assert (found.cycles, found.builds, found.cycles_minao) == (mf.cycles, mf.cycles + 2, 7)
    assert found.converged
    assert found.energy_error == pytest.approx(abs(mf.e_tot - label.energy), abs=1e-12)
    unknown = dataclasses.replace(label, cycles_minao=-1)
    again = evaluate_fock(fock, overlap, "core", CycleCounter(unknown, mol, XC))
    fresh = dft.RKS(mol, xc=XC)
    fresh.kernel(dm0=fresh.get_init_guess(mol, "minao"))
    assert again.cycles_minao == fresh.cycles


def test_fitted_cycles_are_compared_with_fitted_ones(label: Label) -> None:
    mol = label.molecule(BASIS)
    mf = make_mf(mol, XC, "fitted")
    assert mf.with_df is not None
    assert mf.grids.level == 1
    mf.kernel(dm0=mf.get_init_guess(mol, "minao"))
    overlap, fock = mol.intor("int1e_ovlp"), label.full_fock()
    false = dataclasses.replace(label, cycles_minao=99)
    found = evaluate_fock(fock, overlap, "label", CycleCounter(false, mol, XC, "fitted"))
    assert found.cycles_minao == mf.cycles
    assert found.cycles < mf.cycles
    assert found.energy_error < 1e-8  # of the two fitted SCFs; against the label it is 1e-5
    assert abs(mf.e_tot - label.energy) > 1e-6


@pytest.mark.parametrize(("scf", "level"), [("exact", 3), ("fitted", 1), ("coarse", 0)])
def test_kept_integrals_and_grid_change_no_cycles(
    label: Label, scf: Scf, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    mol = label.molecule(BASIS)
    made: list[int] = []
    build = dft.gen_grid.Grids.build
    monkeypatch.setattr(dft.gen_grid.Grids, "build", lambda g, *a, **k: (made.append(g.level), build(g, *a, **k))[1])
    counter = CycleCounter(dataclasses.replace(label, cycles_minao=-1), mol, XC, scf)
    densities = [make_mf(mol, XC, scf).get_init_guess(mol, guess) for guess in ("minao", "1e", "minao")]
    found = [counter.minao, *map(counter.run, densities[1:])]
    assert made == [level]
    for dm, run in zip(densities, found, strict=True):
        mf = make_mf(mol, XC, scf)
        energy = mf.kernel(dm0=dm)
        assert (run.cycles, run.converged) == (mf.cycles, True)
        assert run.energy == pytest.approx(energy, abs=1e-10)


def test_unknown_kind_of_scf_is_refused(label: Label) -> None:
    mol = label.molecule(BASIS)
    with pytest.raises(ValueError, match="one of 'exact', 'fitted', 'coarse', not 'none'"):
        make_mf(mol, XC, "none")
    counter = CycleCounter(label, mol, XC, "none")
    assert counter.minao.cycles == 7
    assert counter.run(np.eye(mol.nao)).cycles == -1


def test_routes_of_a_molecule_are_the_reference_with_and_without_the_network(
    label: Label, checkpoint: Checkpoint
) -> None:
    mol = label.molecule(BASIS)
    reference = build_reference(mol, SAP)
    network, alone = evaluate_molecule(label, BASIS, XC, checkpoint, reference, scf="none")
    assert (network.route, alone.route) == ("network", "reference")
    target = label.full_fock()
    dF = correction(checkpoint.model, molecule_graph(mol, TABLE, CONFIG.cutoff), reference)
    assert np.abs(dF).max() > 1e-3
    assert network.mae == pytest.approx(np.abs(reference.fock + dF - target).mean())
    assert alone.mae == pytest.approx(np.abs(reference.fock - target).mean())


def test_rows_come_back_from_their_file(tmp_path: Path) -> None:
    rows = [row(psi=0.9, scf="exact"), row(route="reference", eps=1e-3)]
    append_rows(tmp_path / "rows.csv", rows)
    back = read_rows(tmp_path / "rows.csv", Row)
    assert back[0].psi == 0.9
    assert math.isnan(back[0].eps)
    assert [r.scf for r in back] == ["exact", ""]


def test_summary_of_rows_without_the_papers_metrics_is_the_first_table() -> None:
    """Files of earlier versions have the first fields only."""
    text = summary([row(), row("b", cycles=11, converged=False, energy_error=2e-7), row("c", charge=1, cycles=-1)])
    lines = text.splitlines()
    assert lines[2] == "| neutral | network | 2 | 100 | 2.00e-04 | 8.50 | 10.00 | **0.850** | 1.10 | 1 |"
    assert lines[3] == "| ions | network | 1 | 100 | 2.00e-04 | - | - | - | - | - |"
    assert "not converged: b" in text
    assert "largest energy difference to the labels: 2.0e-07 hartree" in text
    assert "psi" not in text


def test_summary_has_the_papers_metrics() -> None:
    metrics = {"mae_diagonal": 2e-4, "mae_off_diagonal": 5e-5, "eps": 1e-3, "psi": 0.9, "homo_error": 3e-4}
    rest = {f.name: 0.0 for f in dataclasses.fields(FockErrors) if f.name not in ("mae", "ov", *metrics)}
    rows = [row(scf="fitted", **{**rest, **metrics}), row("b", scf="fitted", **{**rest, **metrics, "psi": 1.0})]
    text = summary(rows)
    header, line = text.splitlines()[-3], text.splitlines()[-1]
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells["H"] == "100.0"
    assert (cells["diagonal"], cells["off-diagonal"], cells["eps"], cells["HOMO"]) == ("200.0", "50.0", "1000", "300")
    assert cells["psi (%)"] == "95.00"
    assert "largest energy difference to minao's, all with fitting" in text
    atom = row("atom", scf="none", cycles=-1, **{**rest, **metrics, "mae_off_diagonal": math.nan})
    assert summary([*rows, atom]).splitlines()[-1].split(" | ")[5] == "50.0"  # an atom has no pairs to count


def write_labels(path: Path, label: Label) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "fock-labels", "version": 1, "xc": XC, "basis": BASIS})
        file["atomic_numbers"] = label.atomic_numbers.astype(np.uint8)
        file["positions"], file["fock"] = label.positions, label.fock
        file["atom_offsets"], file["fock_offsets"] = np.array([0, 2]), np.array([0, len(label.fock)])
        file["energy"], file["cycles_minao"] = np.array([label.energy]), np.array([7], dtype=np.int16)
        file["name"], file["split"] = [label.name], ["val"]


def test_command_line_goes_on_and_refuses_other_files(
    label: Label,
    checkpoint: Checkpoint,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_labels(tmp_path / "labels.h5", label)
    save_checkpoint(tmp_path / "model.pt", checkpoint)
    ran: list[evaluate._Task] = []
    original = evaluate._run

    def record(task: evaluate._Task) -> list[Row]:
        ran.append(task)
        return original(task)

    def run(*options: str) -> int:
        files = ["--labels", str(tmp_path / "labels.h5"), "--model", str(tmp_path / "model.pt")]
        return evaluate.main([*files, "--out", str(tmp_path / "rows.csv"), *options])

    monkeypatch.setattr(evaluate, "worker_pool", ThreadPoolExecutor)
    monkeypatch.setattr(evaluate, "_run", record)
    run("--scf", "none", "--routes", "reference")
    run("--scf", "none")  # the reference's row is there, the others are missing
    run("--scf", "none")
    assert [task.routes for task in ran] == [("reference",), ("guess", "network")]
    rows = read_rows(tmp_path / "rows.csv", Row)
    assert [r.route for r in rows] == ["reference", "guess", "network"]
    assert "| neutral | network | 1 |" in capsys.readouterr().out
    assert run("--scf", "fitted") == 2
    assert "was made with --scf none; give the same or another --out" in capsys.readouterr().err
    text = (tmp_path / "rows.csv").read_text().replace(",scf", ",seconds")
    (tmp_path / "rows.csv").write_text(text)
    assert run("--scf", "none") == 2
    assert "has the columns of another version; give another --out" in capsys.readouterr().err


def test_cycles_of_the_converged_density_are_few(label: Label) -> None:
    mol = label.molecule(BASIS)
    orbitals = diagonalise(label.full_fock(), mol.intor("int1e_ovlp"))
    run = CycleCounter(label, mol, XC).run(make_density(orbitals, aufbau(mol.nao, mol.nelectron)))
    assert run.converged
    assert run.cycles <= 3
