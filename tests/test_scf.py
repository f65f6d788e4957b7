"""The key 'tracegrad' in PySCF: who served which calculation, and that the answer stays the same."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from pyscf import gto, scf
from pyscf.pbc import gto as pbc_gto

import pyscf_tracegrad
from pyscf_tracegrad import OutsideDomain, pretrained, register, tracegrad_guess, unregister

BASIS = "def2-svp"
SAME = 1e-9  # of two runs of one guess: where a matrix begins in memory may change a last digit


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Routes of the guesses that our model served."""
    served: list[str] = []
    predict = pretrained.PretrainedModel.predict

    def watched(self: Any, mol: gto.Mole, cheap: Any = None) -> Any:
        prediction = predict(self, mol, cheap)
        served.append(prediction.route)
        return prediction

    monkeypatch.setattr(pretrained.PretrainedModel, "predict", watched)
    register(refine=False)  # the network serves every closed shell then; test_serving.py has the default
    yield served
    register()


@pytest.mark.parametrize(
    "make",
    [
        lambda mol: mol.RKS(xc="b3lyp"),
        lambda mol: mol.RKS(xc="pbe"),
        lambda mol: mol.RHF(),
        lambda mol: mol.RKS(xc="b3lyp").density_fit(),
        lambda mol: mol.RHF().density_fit(),
        lambda mol: mol.RKS(xc="b3lyp").newton(),
        lambda mol: mol.RHF().sfx2c1e(),
    ],
    ids=["rks", "pbe", "rhf", "rks-df", "rhf-df", "newton", "sfx2c1e"],
)
@pytest.mark.parametrize("key", ["tracegrad", "TraceGrad"])
def test_our_guess_serves(make: Any, key: str, water: gto.Mole, spy: list[str]) -> None:
    mf = make(water)
    mf.init_guess = key
    mf.max_cycle = 0
    dm = mf.get_init_guess(water, mf.init_guess)
    assert spy == ["network"]
    assert dm.shape == (water.nao, water.nao)
    assert dm.mo_coeff.shape == (water.nao, water.nao)
    assert dm.mo_occ.sum() == 10
    mf.kernel()
    assert spy == ["network", "network"]


def test_symmetry_is_served(spy: list[str]) -> None:
    mol = gto.M(atom="O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692", basis=BASIS, symmetry=True, verbose=0)
    mf = mol.RHF()
    mf.init_guess = "tracegrad"
    energy = mf.kernel()
    assert spy == ["network"]
    assert mf.converged
    assert energy == pytest.approx(mol.RHF().kernel(), abs=1e-8)


@pytest.mark.parametrize("kind", ["RHF", "RKS"])
@pytest.mark.parametrize("fitted", [False, True])
def test_energy_is_that_of_minao(kind: str, fitted: bool, formaldehyde: gto.Mole, spy: list[str]) -> None:
    def run(guess: str) -> Any:
        mf = formaldehyde.RHF() if kind == "RHF" else formaldehyde.RKS(xc="b3lyp")
        mf = mf.density_fit() if fitted else mf
        mf.init_guess = guess
        mf.kernel()
        assert mf.converged
        return mf

    ours, minao = run("tracegrad"), run("minao")
    assert spy == ["network"]
    assert abs(ours.e_tot - minao.e_tot) < 1e-8
    assert ours.cycles < minao.cycles


def test_by_hand_is_the_same(formaldehyde: gto.Mole) -> None:
    by_key = formaldehyde.RKS(xc="b3lyp").get_init_guess(formaldehyde, "tracegrad")
    assert np.abs(by_key - tracegrad_guess(formaldehyde.RKS(xc="b3lyp"))).max() < SAME


def test_by_hand_of_a_molecule_is_the_same_without_an_exact_build(formaldehyde: gto.Mole) -> None:
    mf = formaldehyde.RKS(xc="b3lyp")
    for refine in (False, 3):
        by_key = mf.get_init_guess(key="tracegrad", refine=refine)
        assert np.abs(by_key - tracegrad_guess(formaldehyde, refine=refine)).max() < SAME
    assert not np.allclose(mf.get_init_guess(key="tracegrad"), tracegrad_guess(formaldehyde), rtol=0, atol=1e-7)


HYDROXYL = "O 0 0 0; H 0 0 0.97"


def cell() -> Any:
    return pbc_gto.M(atom="He 0 0 0", a=np.eye(3) * 4, basis="sto-3g", verbose=0)


NOT_THE_NETWORK: list[tuple[Any, str]] = [
    (lambda: gto.M(atom=HYDROXYL, spin=1, basis=BASIS).UKS(xc="b3lyp"), "does not know open shells"),
    (lambda: gto.M(atom=HYDROXYL, spin=1, basis=BASIS).ROKS(xc="b3lyp"), "does not know open shells"),
    (lambda: gto.M(atom=HYDROXYL, spin=1, basis=BASIS).RHF(), "does not know open shells"),
    (lambda: gto.M(atom=HYDROXYL, spin=1, basis=BASIS).GHF(), "does not know open shells"),
    (lambda: gto.M(atom="H 0 0 0; F 0 0 0.9", basis=BASIS).UHF(), "does not break spin symmetry"),
    (lambda: gto.M(atom="H 0 0 0; Cl 0 0 1.3", basis=BASIS).RKS(), "the model knows H, C, N, O, F only"),
    (lambda: gto.M(atom="H 0 0 0; I 0 0 1.6", basis=BASIS, ecp={"I": BASIS}).RHF(), "effective core potentials"),
]


@pytest.mark.parametrize(("make", "reason"), NOT_THE_NETWORK)
def test_reference_serves_what_the_network_does_not_know(
    make: Any, reason: str, spy: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    """A note in the report, and no warning: nothing is amiss."""
    mf = make()
    mf.verbose = 2
    dm = mf.get_init_guess(key="tracegrad", refine=1)
    assert mf.init_guess_report.route == "reference"
    assert reason in mf.init_guess_report.reason
    minao = mf.get_init_guess(key="minao")
    assert np.shape(dm) == np.shape(minao) or np.shape(dm) == (2, *np.shape(minao))
    assert not np.allclose(dm, minao, rtol=0, atol=1e-3)
    assert spy == []
    assert "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(
    ("make", "transfer"),
    [
        (lambda: gto.M(atom="H 0 0 0; F 0 0 0.9", basis="6-31g").RHF(), "fock"),
        (lambda: gto.M(atom="H 0 0 0; F 0 0 0.9", basis=BASIS, cart=True).RHF(), "fock"),
        (lambda: gto.M(atom="H 0 0 0; F 0 0 0.9", basis=BASIS).GKS(xc="b3lyp"), "native"),
        (lambda: gto.M(atom="H 0 0 0; F 0 0 0.9", basis=BASIS).GHF(), "fock"),
        (lambda: gto.M(atom="H 0 0 0; F 0 0 0.9", basis=BASIS).ROKS(xc="b3lyp"), "native"),
        (lambda: gto.M(atom="H 0 0 0; F 0 0 0.9; ghost-O 0 0 3", basis=BASIS).RHF(), "fock"),
    ],
)
def test_network_serves_other_bases_and_classes(make: Any, transfer: str, spy: list[str]) -> None:
    mf = make()
    mf.verbose = 0
    mf.get_init_guess(key="tracegrad")
    assert spy == ["network"]
    assert (mf.init_guess_report.route, mf.init_guess_report.transfer) == ("network", transfer)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: gto.M(atom="H 0 0 0; H 0 0 0.9", basis="sto-3g").DHF(), "four-component"),
        (lambda: gto.M(atom="H 0 0 0; H 0 0 0.9", basis="sto-3g").X2C(), "none of RHF, ROHF, UHF and GHF"),
        (lambda: cell().RHF(), "periodic systems"),
        (lambda: cell().KRHF(), "periodic systems"),
    ],
)
def test_minao_serves_what_is_not_covered_and_says_why(
    make: Any, reason: str, spy: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    mf = make()
    mf.verbose = 2
    dm = mf.get_init_guess(key="tracegrad")
    expected = mf.get_init_guess(key="minao")
    assert spy == []
    assert np.array_equal(dm, expected)
    message = "".join(capfd.readouterr())
    assert "tracegrad guess:" in message
    assert reason in message
    assert "Using the minao guess instead" in message


def test_strict_raises_instead(spy: list[str]) -> None:
    mf = gto.M(atom="H 0 0 0; H 0 0 0.9", basis="sto-3g", verbose=0).DHF()
    with pytest.raises(OutsideDomain, match="four-component"):
        mf.get_init_guess(key="tracegrad", strict=True)
    register(strict=True)
    with pytest.raises(OutsideDomain, match="four-component"):
        mf.get_init_guess(key="tracegrad")
    with pytest.raises(OutsideDomain, match="four-component"):
        tracegrad_guess(mf, strict=True)
    assert spy == []


@pytest.mark.parametrize("key", ["minao", "atom", "1e", "huckel"])
def test_other_keys_are_pyscfs_own(key: str, water: gto.Mole, spy: list[str]) -> None:
    ours = water.RHF().get_init_guess(water, key)
    unregister()
    theirs = water.RHF().get_init_guess(water, key)
    assert spy == []
    assert np.array_equal(ours, theirs)


def test_given_density_passes_through(water: gto.Mole) -> None:
    dm = np.eye(water.nao)
    assert scf.hf.SCF.get_init_guess(water.RHF(), water, dm) is dm


def test_register_and_unregister_are_exact() -> None:
    unregister()
    original = scf.hf.SCF.get_init_guess
    unregister()
    assert scf.hf.SCF.get_init_guess is original
    register()
    register()
    assert scf.hf.SCF.get_init_guess is not original
    assert scf.hf.SCF.get_init_guess.__doc__ == original.__doc__
    unregister()
    assert scf.hf.SCF.get_init_guess is original
    register()


def test_broken_weights_fall_back_with_a_message(
    water: gto.Mole, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "lost.pt")
    mf = water.RKS(xc="b3lyp")
    mf.verbose = 2
    mf.get_init_guess(key="tracegrad")
    report = mf.init_guess_report
    assert (report.route, report.refined, report.exact_builds) == ("reference", True, 1)
    said = "".join(capfd.readouterr())
    assert said.count("WARN") == 1
    assert "lost.pt: cannot be read" in said
    assert "Using the reference Fock matrix instead" in said
    assert "lost.pt: cannot be read" in report.reason


def test_weights_that_nobody_asks_are_not_looked_at(
    water: gto.Mole, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pretrained, "SHIPPED", tmp_path / "lost.pt")
    mf = water.RHF()
    mf.verbose = 2
    mf.get_init_guess(key="tracegrad", strict=True)
    assert mf.init_guess_report.route == "reference"
    assert "".join(capfd.readouterr()) == ""


def test_import_is_cheap() -> None:
    """No torch, e3nn or h5py reader before the first guess."""
    code = "import sys, pyscf_tracegrad; print([m for m in ('torch', 'e3nn', 'torch_geometric') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert pyscf_tracegrad.load_model is pretrained.load_model


def test_thread_counts_are_left_alone(water: gto.Mole) -> None:
    import torch
    from pyscf import lib

    before = torch.get_num_threads(), lib.num_threads(), torch.get_default_dtype()
    tracegrad_guess(water)
    assert (torch.get_num_threads(), lib.num_threads(), torch.get_default_dtype()) == before
