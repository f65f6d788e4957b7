"""The guess by hand: the density, its parts, and one clear message for each bad input."""

from __future__ import annotations

import dataclasses
import functools
import re
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from pyscf import gto
from pyscf.scf import hf

from pyscf_tracegrad import OutsideDomain, load_model, predict_fock, tracegrad_guess
from pyscf_tracegrad.domain import check_density, check_molecule, check_network
from pyscf_tracegrad.guess import make_guess
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.pretrained import Prediction, PretrainedModel
from pyscf_tracegrad.reference import Reference

BASIS = "def2-svp"


@pytest.mark.parametrize("refine", ["auto", 2, False])
def test_density_is_idempotent_with_all_electrons(refine: Any, every_element: gto.Mole) -> None:
    dm = tracegrad_guess(every_element, refine=refine)
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


def test_refine_false_is_the_density_of_the_predicted_fock_matrix_after_a_step(water: gto.Mole) -> None:
    guess = make_guess(water, GuessOptions(refine=False))
    _, c = scipy.linalg.eigh(guess.fock, water.intor("int1e_ovlp"))
    assert np.abs(guess.dm - 2 * c[:, :5] @ c[:, :5].T).max() < 1e-10
    assert np.abs(guess.dm - tracegrad_guess(water, refine=False)).max() < 1e-10
    assert 1e-6 < np.abs(guess.fock - predict_fock(water)).mean() < 5e-4


def test_default_goes_on_with_cheap_cycles_and_is_nearer(formaldehyde: gto.Mole) -> None:
    """A molecule by itself is refined too, but has no operator of its own for an exact build."""
    mf = formaldehyde.RKS(xc="b3lyp").run()
    errors = [np.linalg.norm(tracegrad_guess(formaldehyde, refine=r) - mf.make_rdm1()) for r in ("auto", False)]
    assert errors[0] < 0.1 * errors[1]
    report = make_guess(formaldehyde).report
    assert (report.refined, report.exact_builds) == (True, 0)


BARE = {"loading", "set-up", "F0", "G", "network", "gate", "diagonalisation"}


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        (GuessOptions(refine=False), BARE | {"last step"}),
        (GuessOptions(refine=2), BARE | {"cheap cycles"}),
        (GuessOptions(refine=False, start="reference"), {"set-up", "F0", "G", "last step"}),
        (GuessOptions(refine=False, start="minao"), set()),
        (GuessOptions(refine=1, start="minao"), {"set-up", "F0", "cheap cycles"}),
    ],
)
def test_seconds_of_every_stage_are_reported(options: GuessOptions, stages: set[str], water: gto.Mole) -> None:
    report = make_guess(water, options).report
    assert set(report.seconds) == stages | {"density"}
    assert all(value >= 0 for value in report.seconds.values())


def test_report_says_who_served(water: gto.Mole) -> None:
    dm, report = tracegrad_guess(water.RKS(xc="b3lyp"), report=True)
    assert dm.shape == (water.nao, water.nao)
    assert (report.route, report.transfer, report.refined, report.exact_builds) == ("network", "native", True, 1)
    assert report.gate["gap"] > 0.1
    assert report.reason == ""
    assert str(report).startswith(f"network, refined: {report.cheap_builds} cheap and 1 exact Fock builds, ")


@pytest.mark.parametrize("start", ["network", "reference", "minao"])
def test_start_can_be_named(start: Any, water: gto.Mole) -> None:
    assert make_guess(water, GuessOptions(start=start)).report.route == start


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"refine": "yes"}, "refine takes 'auto', a number of cheap cycles or False, not 'yes'"),
        ({"refine": -1}, "not -1"),
        ({"refine": 2.5}, "not 2.5"),
        ({"transfer": "orbital"}, "transfer takes 'auto', 'fock', 'density', not 'orbital'"),
        ({"start": "sap"}, "start takes 'auto', 'network', 'reference', 'minao', the path"),
    ],
)
def test_bad_options_raise(keywords: dict[str, Any], message: str, water: gto.Mole) -> None:
    with pytest.raises(ValueError, match=message):
        tracegrad_guess(water, **keywords)


@pytest.mark.parametrize("serve", [True, False])
def test_ions_are_served_as_the_model_says(serve: bool) -> None:
    model = load_model()
    switched = PretrainedModel(dataclasses.replace(model.checkpoint, serve_ions=serve))
    ammonium = gto.M(
        atom="N 0 0 0; H .6 .6 .6; H -.6 -.6 .6; H -.6 .6 -.6; H .6 -.6 -.6", charge=1, basis=BASIS, verbose=0
    )
    report = make_guess(ammonium, GuessOptions(refine=False), switched).report
    assert report.route == ("network" if serve else "reference")
    assert report.notes == (() if serve else ("the model leaves ions to F_ref",))


def molecule(atom: Any, **keywords: Any) -> gto.Mole:
    return gto.M(atom=atom, **{"basis": BASIS, "verbose": 0, **keywords})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (gto.Mole, "not built"),
        (lambda: gto.Mole(atom=[], basis=BASIS, verbose=0).build(), "no atoms"),
        (lambda: molecule("He 0 0 0", charge=2), "no electrons"),
        (lambda: molecule("H 0 0 0; F 0 0 0"), r"atoms 0 \(H\) and 1 \(F\) are at one place"),
        (lambda: molecule([("H", (0, 0, 0)), ("F", (0, 0, np.nan))]), r"atom 1 \(F\) has no finite coordinates"),
    ],
)
def test_bad_input_has_one_clear_message(make: Any, message: str) -> None:
    mol = make()
    for call in (predict_fock, make_guess, lambda m: tracegrad_guess(m, strict=True)):
        with pytest.raises(OutsideDomain, match=message):
            call(mol)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: molecule("H 0 0 0; I 0 0 1.6", ecp={"I": BASIS}),
            "the network does not know effective core potentials",
        ),
        (lambda: molecule("O 0 0 0; H 0 0 .97", spin=1), r"does not know open shells \(9 electrons, spin 1\)"),
        (lambda: molecule("O 0 0 0; O 0 0 1.2", spin=2), r"does not know open shells \(16 electrons, spin 2\)"),
        (lambda: molecule("H 0 0 0; F 0 0 .05"), r"atoms 0 \(H\) and 1 \(F\) are 0.05 angstrom apart"),
        (lambda: molecule("H 0 0 0; Cl 0 0 1.3"), r"atom 1 \(Cl\): the model knows H, C, N, O, F only"),
    ],
)
def test_what_the_network_does_not_know_has_one_clear_message(make: Any, message: str) -> None:
    """The same words where only the network will do, and in the note where F_ref will do as well."""
    mol = make()
    only_network = functools.partial(make_guess, options=GuessOptions(start="network"))
    for call in (predict_fock, only_network):
        with pytest.raises(OutsideDomain, match=message):
            call(mol)
    report = make_guess(mol, GuessOptions(refine=1)).report
    assert report.route == "reference"
    assert re.search(message, report.reason)


def test_predicted_fock_is_in_the_basis_of_the_labels() -> None:
    with pytest.raises(OutsideDomain, match=r"atom 0 \(H\): its basis has a shell"):
        predict_fock(molecule("H 0 0 0; F 0 0 .9", basis="cc-pvdz"))


def test_not_strict_warns_and_gives_minao(capfd: pytest.CaptureFixture[str]) -> None:
    mol = molecule("H 0 0 0; Cl 0 0 1.3", verbose=2)
    dm, report = tracegrad_guess(mol, start="network", report=True)
    assert np.array_equal(dm, hf.init_guess_by_minao(mol))
    captured = capfd.readouterr()
    assert "the model knows H, C, N, O, F only. Using the minao guess" in captured.out + captured.err
    assert report.route == "minao"
    assert "the model knows H, C, N, O, F only" in report.reason


def test_molecule_that_no_guess_can_start_from_raises_always() -> None:
    mol = molecule([("H", (0, 0, 0)), ("F", (0, 0, np.nan))])
    for call in (tracegrad_guess, lambda m: m.RHF().get_init_guess(m, "tracegrad")):
        with pytest.raises(OutsideDomain, match="no finite coordinates"):
            call(mol)


def test_wrong_shape_or_numbers_never_reach_pyscf(water: gto.Mole) -> None:
    shape = (water.nao, water.nao)
    with pytest.raises(OutsideDomain, match=r"shape \(3, 3\), this calculation needs \(24, 24\)"):
        check_density(np.eye(3), shape)
    with pytest.raises(OutsideDomain, match=r"shape \(24, 24\), this calculation needs \(2, 24, 24\)"):
        check_density(np.eye(24), (2, *shape))
    with pytest.raises(OutsideDomain, match="not finite"):
        check_density(np.full(shape, np.nan), shape)
    reference = Reference(np.eye(2), np.zeros((0, 2, 2)), np.eye(2))
    with pytest.raises(ValueError, match=r"dF \(3, 3\) and F_ref \(2, 2\) do not match"):
        Prediction(water, reference, np.eye(3), "network", 0.0, {})


def test_covered_molecule_passes(every_element: gto.Mole) -> None:
    check_molecule(every_element)
    check_network(every_element)
