"""The guess by hand: the density, its parts, and one clear message for each bad input."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from pyscf import gto
from pyscf.scf import hf

from pyscf_tracegrad import OutsideDomain, load_model, predict_fock, tracegrad_guess
from pyscf_tracegrad.domain import check_density, check_molecule
from pyscf_tracegrad.guess import make_guess
from pyscf_tracegrad.pretrained import Prediction, PretrainedModel

BASIS = "def2-svp"


def test_density_is_idempotent_with_all_electrons(every_element: gto.Mole) -> None:
    dm = tracegrad_guess(every_element)
    s = every_element.intor("int1e_ovlp")
    assert np.trace(dm @ s) == pytest.approx(every_element.nelectron, abs=1e-10)
    assert np.abs(dm @ s @ dm - 2 * dm).max() < 1e-10
    assert np.abs((dm.mo_coeff * dm.mo_occ) @ dm.mo_coeff.T - dm).max() < 1e-12


def test_fock_is_symmetric_float64_and_near_the_converged_one(formaldehyde: gto.Mole) -> None:
    fock = predict_fock(formaldehyde)
    assert fock.dtype == np.float64
    assert np.array_equal(fock, fock.T)
    mf = formaldehyde.RKS(xc="b3lyp")
    mf.kernel()
    assert np.abs(fock - mf.get_fock()).mean() < 1.5e-3


def test_network_is_better_than_its_reference(formaldehyde: gto.Mole) -> None:
    """Occupied-virtual error against the converged orbitals, network on and off."""
    mf = formaldehyde.RKS(xc="b3lyp")
    mf.kernel()
    model = load_model()
    occupied, virtual = mf.mo_coeff[:, mf.mo_occ > 0], mf.mo_coeff[:, mf.mo_occ == 0]
    from pyscf_tracegrad.reference import build_reference

    reference = build_reference(formaldehyde, model.checkpoint.model.config.reference).fock
    errors = [np.linalg.norm(occupied.T @ f @ virtual) for f in (predict_fock(formaldehyde), reference)]
    assert errors[0] < 0.8 * errors[1]


def test_seconds_of_every_stage_are_reported(water: gto.Mole) -> None:
    guess = make_guess(water)
    assert set(guess.seconds) == {"set-up", "F0", "G", "network", "diagonalisation"}
    assert all(value >= 0 for value in guess.seconds.values())
    assert guess.route == "network"
    assert guess.gap > 0.1


@pytest.mark.parametrize("serve", [True, False])
def test_ions_are_served_as_the_model_says(serve: bool) -> None:
    model = load_model()
    switched = PretrainedModel(dataclasses.replace(model.checkpoint, serve_ions=serve))
    ammonium = gto.M(
        atom="N 0 0 0; H .6 .6 .6; H -.6 -.6 .6; H -.6 .6 -.6; H .6 -.6 -.6", charge=1, basis=BASIS, verbose=0
    )
    assert make_guess(ammonium, switched).route == ("network" if serve else "reference")


def molecule(atom: Any, **keywords: Any) -> gto.Mole:
    return gto.M(atom=atom, **{"basis": BASIS, "verbose": 0, **keywords})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (gto.Mole, "not built"),
        (lambda: gto.Mole(atom=[], basis=BASIS, verbose=0).build(), "no atoms"),
        (lambda: molecule("H 0 0 0; F 0 0 .9; ghost-O 0 0 3"), r"atom 2 \(GHOST-O\) is a ghost atom"),
        (lambda: molecule("H 0 0 0; I 0 0 1.6", ecp=BASIS), "effective core potentials"),
        (lambda: molecule("O 0 0 0; H 0 0 .97", spin=1), r"open shells are not covered \(9 electrons, spin 1\)"),
        (lambda: molecule("O 0 0 0; O 0 0 1.2", spin=2), "open shells are not covered"),
        (lambda: molecule("H 0 0 0; F 0 0 .02"), r"atoms 0 \(H\) and 1 \(F\) are at one place"),
        (lambda: molecule([("H", (0, 0, 0)), ("F", (0, 0, np.nan))]), r"atom 1 \(F\) has no finite coordinates"),
        (lambda: molecule("H 0 0 0; Cl 0 0 1.3"), r"atom 1 \(Cl\): the model knows H, C, N, O, F only"),
        (lambda: molecule("H 0 0 0; F 0 0 .9", basis="cc-pvdz"), r"atom 0 \(H\): its basis has a shell"),
    ],
)
def test_bad_input_has_one_clear_message(make: Any, message: str) -> None:
    mol = make()
    for call in (predict_fock, make_guess, lambda m: tracegrad_guess(m, strict=True)):
        with pytest.raises(OutsideDomain, match=message):
            call(mol)


def test_not_strict_warns_and_gives_minao(capfd: pytest.CaptureFixture[str]) -> None:
    mol = molecule("H 0 0 0; Cl 0 0 1.3", verbose=2)
    assert np.array_equal(tracegrad_guess(mol), hf.init_guess_by_minao(mol))
    captured = capfd.readouterr()
    assert "the model knows H, C, N, O, F only. Using the minao guess" in captured.out + captured.err


def test_molecule_that_no_guess_can_start_from_raises_always() -> None:
    mol = molecule([("H", (0, 0, 0)), ("F", (0, 0, np.nan))])
    for call in (tracegrad_guess, lambda m: m.RHF().get_init_guess(m, "tracegrad")):
        with pytest.raises(OutsideDomain, match="no finite coordinates"):
            call(mol)


def test_wrong_shape_or_numbers_never_reach_pyscf(water: gto.Mole) -> None:
    with pytest.raises(OutsideDomain, match=r"shape \(3, 3\), this calculation needs \(24, 24\)"):
        check_density(np.eye(3), water.nao)
    with pytest.raises(OutsideDomain, match="not finite"):
        check_density(np.full((24, 24), np.nan), water.nao)
    with pytest.raises(ValueError, match="not finite"):
        Prediction(np.full((2, 2), np.inf), np.eye(2), "network", {})


def test_covered_molecule_passes(every_element: gto.Mole) -> None:
    check_molecule(every_element)
