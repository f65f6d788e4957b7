"""The gate: which signal rejects what, what the report says of it, and that a bad network does no harm."""

from __future__ import annotations

import copy
import dataclasses
import functools
from typing import Any

import numpy as np
import pytest
import torch
from pyscf import gto
from pyscf.scf import hf

from pyscf_tracegrad import load_model, tracegrad_guess
from pyscf_tracegrad.density import diagonalise
from pyscf_tracegrad.gate import Gate, Signals, measure, measure_network
from pyscf_tracegrad.pretrained import Prediction, PretrainedModel
from pyscf_tracegrad.reference import Pair, Reference

GATE = Gate()
NAMES = [field.name for field in dataclasses.fields(Signals)]
GOOD = Signals(**(dict.fromkeys(NAMES, 0.0) | {"gap": 2 * GATE.gap}))
UPPER = {
    "charge": "largest Mulliken charge",
    "distance": "distance to minao's density",
    "step": "density change by the network",
    "overshoot": "overshoot of the damped steps",
}


def reference_of(mol: gto.Mole) -> Reference:
    """F[D_minao] and the one pair that it is of."""
    minao = hf.init_guess_by_minao(mol)
    fock = mol.RHF().get_fock(dm=minao)
    return Reference(fock, np.zeros((0, *fock.shape)), mol.intor("int1e_ovlp"), pairs=(Pair(minao, fock),))


def network_signals(mol: gto.Mole, reference: Reference, correction: Any, traces: float = 0.0) -> Signals:
    return measure_network(Prediction(mol, reference, correction, "network", traces, {}))


def test_good_signals_pass() -> None:
    assert GATE.objection(GOOD) == ""
    at_the_limits = Signals(**{field.name: getattr(GATE, field.name) for field in dataclasses.fields(Gate)})
    assert GATE.objection(at_the_limits) == ""


@pytest.mark.parametrize("name", UPPER)
def test_signal_above_its_limit_is_named(name: str) -> None:
    limit = getattr(GATE, name)
    assert GATE.objection(dataclasses.replace(GOOD, **{name: 0.99 * limit})) == ""
    objection = GATE.objection(dataclasses.replace(GOOD, **{name: 2 * limit}))
    assert objection == f"{UPPER[name]} {2 * limit:.2g} > {limit:g}"


def test_small_gap_is_named() -> None:
    objection = GATE.objection(dataclasses.replace(GOOD, gap=0.5 * GATE.gap))
    assert objection == f"predicted gap {0.5 * GATE.gap:.3f} < {GATE.gap:g} hartree"


@pytest.mark.parametrize("name", ["gap", "traces", *UPPER])
def test_not_a_number_is_rejected(name: str) -> None:
    assert GATE.objection(dataclasses.replace(GOOD, **{name: np.nan})) == "the prediction is not finite"


def test_no_gap_to_speak_of_is_no_objection() -> None:
    assert GATE.objection(dataclasses.replace(GOOD, gap=np.inf)) == ""


def test_signals_are_what_they_say(water: gto.Mole) -> None:
    """Against the formulas, and zero steps for a zero correction."""
    reference = reference_of(water)
    ovlp, minao, fock = reference.overlap, reference.pairs[0].dm, reference.fock
    energies, c = diagonalise(fock, ovlp)
    dm = 2 * c[:, :5] @ c[:, :5].T
    signals = network_signals(water, reference, np.zeros_like(fock), traces=0.25)
    assert signals.gap == pytest.approx(energies[5] - energies[4], abs=1e-10)
    _, charges = hf.mulliken_pop(water, dm, ovlp, verbose=0)
    assert signals.charge == pytest.approx(np.abs(charges).max(), abs=1e-10)
    assert signals.step == 0
    assert signals.traces == 0.25
    values, vectors = np.linalg.eigh(ovlp)
    root = (vectors * np.sqrt(values)) @ vectors.T
    assert signals.distance == pytest.approx(np.linalg.norm(root @ (dm - minao) @ root) / np.sqrt(10), abs=1e-10)


def test_step_is_the_first_order_change_of_the_density(water: gto.Mole) -> None:
    reference = reference_of(water)
    ovlp, fock = reference.overlap, reference.fock
    rng = np.random.default_rng(1)
    correction = 1e-6 * rng.normal(size=fock.shape)
    correction += correction.T
    step = network_signals(water, reference, correction).step
    densities = []
    for f in (fock, fock + correction):
        c = diagonalise(f, ovlp).coefficients[:, :5]
        densities.append(c @ c.T)
    change = (densities[1] - densities[0]) @ ovlp
    # |dP|^2 = 2 sum_ia x_ia^2 in the orthonormal basis
    expected = np.sqrt(np.trace(change @ change) / 2 / (5 * 19))
    assert step == pytest.approx(expected, rel=1e-3)


def test_signals_of_two_spins(water: gto.Mole) -> None:
    """Equal spins have the signals of the closed shell but for the gap, which vanishes in open shells without harm."""
    reference = reference_of(water)
    ovlp, fock = reference.overlap, reference.fock
    closed, both = (measure(water, f, reference, (5, 5)) for f in (fock, np.stack([fock, fock])))
    assert both.gap == np.inf
    assert closed.gap < 1.0
    rest = [list(dataclasses.replace(s, gap=0.0).values().values()) for s in (both, closed)]
    assert rest[0] == pytest.approx(rest[1], abs=1e-9)
    c = diagonalise(fock, ovlp).coefficients
    cation = measure(water, np.stack([fock, fock]), reference, (5, 4))
    _, charges = hf.mulliken_pop(water, c[:, :5] @ c[:, :5].T + c[:, :4] @ c[:, :4].T, ovlp, verbose=0)
    assert cation.charge == pytest.approx(np.abs(charges).max(), abs=1e-10)


def test_all_orbitals_filled() -> None:
    """Helium in one function has no virtual orbitals: no gap to speak of, and nothing that moves."""
    mol = gto.M(atom="He", basis="sto-3g", verbose=0)
    reference = reference_of(mol)
    signals = network_signals(mol, reference, 0.1 * reference.fock)
    assert signals.gap == np.inf
    assert signals.step == 0


def test_report_holds_the_signals(water: gto.Mole) -> None:
    report = tracegrad_guess(water, report=True)[1]
    assert report.signals is not None
    assert set(report.gate) == {"gap", "traces", *UPPER}
    assert 0.2 < report.gate["gap"] < 0.5
    assert 0 < report.gate["charge"] < 1
    assert report.gate["step"] > 0
    assert report.gate["traces"] > 0
    assert report.signals == tracegrad_guess(water, report=True, refine=False)[1].signals


def test_report_of_the_reference_has_none(water: gto.Mole) -> None:
    report = tracegrad_guess(water, start="reference", report=True)[1]
    assert report.signals is None
    assert report.gate == {}


@functools.cache
def noisy(scale: float) -> PretrainedModel:
    """The shipped model with noise of so many of their own standard deviations on its parameters."""
    checkpoint = load_model().checkpoint
    model = copy.deepcopy(checkpoint.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = parameter.std() if parameter.numel() > 1 else parameter.abs().max()
            parameter += scale * spread * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return PretrainedModel(dataclasses.replace(checkpoint, model=model))


@pytest.mark.parametrize("scale", [3.0, 10.0])
@pytest.mark.parametrize("basis", ["def2-svp", "6-31g"])
def test_garbage_is_rejected_and_the_reference_serves(scale: float, basis: str, water: gto.Mole) -> None:
    mol = gto.M(atom="H 0 0 0; F 0 0 0.92", basis=basis, verbose=0)
    mf = mol.RKS(xc="b3lyp")
    dm, report = tracegrad_guess(mf, noisy(scale), refine=False, report=True)
    assert report.route == "reference"
    assert report.transfer == ""
    (note,) = report.notes
    assert note.startswith("the gate rejected the network: ")
    expected = tracegrad_guess(mf, start="reference", refine=False)
    if basis == "def2-svp":  # the steps that were paid for are used
        assert np.abs(dm - expected).max() < 1e-3
    else:
        assert np.abs(dm - expected).max() < 1e-9
    assert load_model().predict(water).route == "network"  # the shipped one is what it was


@pytest.mark.parametrize("scale", [0.0, 0.03, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("make", [lambda m: m.RKS(xc="b3lyp"), lambda m: m.RHF()], ids=["rks", "rhf"])
def test_noise_on_the_weights_does_no_harm(scale: float, make: Any, water: gto.Mole) -> None:
    """With default settings never worse than minao, whether the gate sees it or not."""
    minao = make(water).run()
    mf = make(water)
    dm, report = tracegrad_guess(mf, noisy(scale), report=True)
    if scale == 0:
        assert report.route == ("network" if hasattr(mf, "xc") else "reference")
    mf.kernel(dm0=dm)
    assert mf.converged
    assert mf.cycles < minao.cycles
    assert mf.e_tot == pytest.approx(minao.e_tot, abs=1e-8)
