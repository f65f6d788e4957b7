"""The last step of an unrefined guess: its formula, whom it serves, and that it is worth its build."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyscf import gto

from pyscf_tracegrad import OutsideDomain, tracegrad_guess
from pyscf_tracegrad.anderson import mix
from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.density import aufbau, diagonalise, make_density
from pyscf_tracegrad.guess import make_guess
from pyscf_tracegrad.laststep import DAMPING, last_step, turning_part
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.starts import choose_start
from training.metrics import occupied_virtual_error

BARE = GuessOptions(refine=False)


def starts(mf: Any, **options: Any) -> Any:
    calculation = Calculation(mf, mf.mol)
    before = choose_start(calculation, GuessOptions(refine=False, **options), None)
    return before, last_step(calculation, before)


def test_it_is_a_step_from_the_mixed_matrix_damped_between_occupied_and_empty(formaldehyde: gto.Mole) -> None:
    before, after = starts(formaldehyde.RKS(xc="b3lyp"))
    cheap, ref = before.cheap, before.reference
    fock = before.fock
    response = cheap(before.state.dm) - fock
    mixed, left = mix([*ref.inputs, fock], [*ref.responses, response], ref.overlap, formaldehyde.nelec)
    c = diagonalise(fock, ref.overlap).coefficients
    expected, got = c.T @ (mixed + left) @ c, c.T @ after.fock @ c
    n = formaldehyde.nelectron // 2
    expected[:n, n:] -= (1 - DAMPING) * (c.T @ left @ c)[:n, n:]
    expected[n:, :n] = expected[:n, n:].T
    assert np.abs(got - expected).max() < 1e-9
    orbitals = diagonalise(after.fock, ref.overlap)
    dm = make_density(orbitals, aufbau(len(orbitals.energies), formaldehyde.nelectron))
    assert np.abs(after.state.dm - dm).max() < 1e-8


@pytest.mark.parametrize("start", ["network", "reference"])
def test_it_brings_the_next_matrix_nearer(every_element: gto.Mole, start: Any) -> None:
    """What counts: the error after a cycle without DIIS. By more than half, for one build."""
    mf = every_element.RKS(xc="b3lyp").density_fit()
    mf.grids.level = 1
    mf.kernel()
    ovlp, goal = mf.get_ovlp(), mf.get_fock()
    nexts = [mf.get_fock(dm=found.state.dm) for found in starts(every_element.RKS(xc="b3lyp"), start=start)]
    errors = [occupied_virtual_error(fock, goal, ovlp, every_element.nelectron // 2) for fock in nexts]
    assert errors[1] < 0.5 * errors[0]


def test_it_is_one_cheap_build_and_is_reported(water: gto.Mole) -> None:
    for mf, builds in ((water.RKS(xc="b3lyp"), 4), (water.UKS(xc="b3lyp"), 4), (water.RKS(xc="pbe"), 7)):
        guess = make_guess(mf, BARE)
        assert guess.report.cheap_builds == builds
        assert guess.report.seconds["last step"] > 0
        assert guess.fock is not None
    report = tracegrad_guess(water.RKS(xc="b3lyp"), report=True)[1]
    assert "last step" not in report.seconds  # a refined guess goes on by DIIS instead


@pytest.mark.parametrize("options", [{"start": "minao"}, {"transfer": "density"}])
def test_a_density_alone_is_left_as_it_is(options: dict[str, Any], water: gto.Mole) -> None:
    before, after = starts(water.RKS(xc="pbe"), **options)
    assert after is before


def test_spins_and_shared_orbitals(water: gto.Mole) -> None:
    oh = gto.M(atom="O 0 0 0; H 0 0 0.97", spin=1, basis="def2-svp", verbose=0)
    for make in (lambda m: m.UKS(xc="b3lyp"), lambda m: m.ROKS(xc="b3lyp")):
        mf = make(oh)
        dm, report = tracegrad_guess(mf, refine=False, report=True, strict=True)
        assert report.route == "reference"
        assert dm.shape == mf.get_init_guess(key="minao").shape
    with pytest.raises(OutsideDomain, match="no fixed spin"):  # F_ref's spin may be another than that of the state
        tracegrad_guess(oh.GKS(xc="b3lyp"), refine=False, strict=True)
    unrestricted = water.UKS(xc="b3lyp")
    unrestricted.init_guess_breaksym = 0
    closed, spread = (make_guess(m, BARE) for m in (water.RKS(xc="b3lyp"), unrestricted))
    assert np.abs(spread.dm - 0.5 * closed.dm).max() < 1e-8


def test_the_turning_part_is_what_couples_occupied_and_empty_orbitals(water: gto.Mole) -> None:
    overlap, hcore = water.intor("int1e_ovlp"), water.intor("int1e_kin") + water.intor("int1e_nuc")
    orbitals = diagonalise(hcore, overlap)
    c, n = orbitals.coefficients, water.nelectron // 2
    noise = np.random.default_rng(0).normal(size=hcore.shape)
    noise += noise.T
    expected = c.T @ noise @ c
    expected[:n, :n] = expected[n:, n:] = 0
    dm = make_density(orbitals, aufbau(len(c), water.nelectron))
    assert np.abs(c.T @ turning_part(noise, dm, overlap) @ c - expected).max() < 1e-10
    spins = turning_part(np.stack([noise, noise]), np.stack([0.5 * dm, 0.5 * dm]), overlap)
    assert np.abs(spins - turning_part(noise, dm, overlap)).max() < 1e-12
