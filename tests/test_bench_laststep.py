"""The bench of the last step: its rows are those of the matrices that it names, its means geometric."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from label_helpers import SMALL, write_labels
from pyscf import gto, lib

from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.density import aufbau, diagonalise, make_density
from pyscf_tracegrad.guess import make_guess
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.pretrained import load_model
from pyscf_tracegrad.starts import choose_start
from training.bench import laststep
from training.bench.laststep import Row, candidates, fixed_point, measure, table
from training.labels import Label, Theory
from training.metrics import occupied_virtual_error

THEORY = Theory("b3lyp", "def2-svp")


@pytest.fixture(scope="module")
def label() -> Label:
    """Hydrogen cyanide, converged by PySCF."""
    mol = gto.M(atom="H 0 0 -1.064; C 0 0 0; N 0 0 1.156", basis=THEORY.basis, verbose=0)
    mf = mol.RKS(xc=THEORY.xc)
    energy = mf.kernel()
    fock = lib.pack_tril(mf.get_fock()).astype(np.float32)
    return Label("HCN", mol.atom_charges(), mol.atom_coords(), 0, fock, float(energy), 9, "val")


def test_rows_are_of_the_matrices_that_are_handed_over(label: Label) -> None:
    mol = label.molecule(THEORY.basis)
    guess = make_guess(mol.RKS(xc=THEORY.xc), GuessOptions(refine=False))
    rows = {r.matrix: r for r in measure(label, THEORY, load_model())}
    assert len(rows) == 8
    assert rows["network, last step"].mae == pytest.approx(np.abs(guess.fock - label.full_fock()).mean(), rel=1e-5)
    assert rows["network, last step"].cheap_builds == guess.report.cheap_builds
    assert rows["reference, as it is"].cheap_builds == 3
    # damped or whole where the density does not turn: the matrix differs, the density in second order only
    step, everywhere = rows["network, last step"], rows["network, damped by 0.35 everywhere"]
    assert step.mae < everywhere.mae
    assert step.ov == pytest.approx(everywhere.ov, rel=0.1)


def test_later_errors_are_those_of_plain_cycles(label: Label) -> None:
    mol = label.molecule(THEORY.basis)
    calculation = Calculation(mol.RKS(xc=THEORY.xc), mol)
    before = choose_start(calculation, GuessOptions(refine=False, start="reference"), None)
    fock = candidates(calculation, before)["last step"][1]
    goal = fixed_point(calculation, before.cheap, label.full_fock())
    row = next(r for r in measure(label, THEORY, load_model()) if r.matrix == "reference, last step")
    for expected in row.later:
        orbitals = diagonalise(fock, calculation.overlap)
        fock = before.cheap(make_density(orbitals, aufbau(len(orbitals.energies), 14)))
        assert occupied_virtual_error(fock, goal, calculation.overlap, 7) == pytest.approx(expected, rel=1e-3)
    same = before.cheap(calculation.first_state(goal).dm)
    assert occupied_virtual_error(same, goal, calculation.overlap, 7) < 1e-6


def test_a_start_without_steps_is_refused(label: Label) -> None:
    mol = label.molecule(THEORY.basis)
    calculation = Calculation(mol.RKS(xc=THEORY.xc), mol)
    before = choose_start(calculation, GuessOptions(refine=False, start="minao"), None)
    with pytest.raises(ValueError, match="'minao' has no Fock matrix"):
        candidates(calculation, before)


def test_means_are_geometric() -> None:
    rows = [Row(name, "F", 3, mae, ov, (ov, ov)) for name, mae, ov in (("a", 1e-6, 1e-4), ("b", 1e-4, 1e-6))]
    assert table(rows).splitlines()[-1] == "| F | 3 | 10 | 1.0e-05 | 1.0e-05 | 1.0e-05 |"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("water", "hydrogen fluoride")
    labels = write_labels(tmp_path / "l.h5", {name: SMALL[name] for name in names}, ("val", "train"))
    assert laststep.main(["--labels", str(labels), "--every", "1"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    labels = write_labels(tmp_path / "none.h5", {"water": SMALL["water"]}, ("train",))
    assert laststep.main(["--labels", str(labels)]) == 2
    assert "no held-out neutral molecule" in capsys.readouterr().err
