"""More than one SCF state: never above minao's, no state that PySCF's SCF leaves, and a word about it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyscf import gto, lib, scf
from pyscf.scf.addons import remove_linear_dep_, smearing_

from pyscf_tracegrad import OutsideDomain, tracegrad_guess
from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.handover import enlargement, passes, wanted_gradient
from pyscf_tracegrad.states import forewarned, suspicion
from pyscf_tracegrad.twin import Thresholds, Twin

ROUGH = Thresholds(1e-7, 1e-3)
SQUARE = "H 1.161 1.161 0; H 1.161 -1.161 0; H -1.161 1.161 0; H -1.161 -1.161 0"


def from_minao(mf: Any) -> Any:
    plain = mf.copy()
    plain.init_guess = "minao"
    plain.kernel()
    return plain


def from_us(mf: Any) -> Any:
    mf.init_guess = "tracegrad"
    mf.kernel()
    return mf


def molecule(atom: str, basis: str = "cc-pvdz", **keywords: Any) -> gto.Mole:
    return gto.M(atom=atom, basis=basis, verbose=0, **keywords)


@pytest.mark.parametrize(
    ("mf", "cycles"),
    [
        (molecule("H 0 0 0; H 0 0 3.7").RHF(), 1),  # a closed shell 27 mEh higher beside it
        (molecule(SQUARE, unit="bohr").RHF(), 1),  # 53 mEh
        (scf.ROHF(molecule("H 0 0 0; H 0.75 0 0; H 0 0.75 0; H 0.75 0.75 0")), 1),  # 11 mEh
        (molecule("H 0 0 0; H 0 0 3.7").RKS(xc="pbe"), 1),  # PySCF's steps enlarge its gradient forty times
        (molecule("H 0 0 -0.5; H 0 0 0.5", spin=2).GHF(), 1),  # its lowest state is a singlet
        (molecule("V", "def2-svp", spin=3).UHF(), 1),  # cheap DIIS does not converge from F_ref
    ],
    ids=["H2", "square H4", "H4 ROHF", "H2 PBE", "H2 GHF", "V"],
)
def test_never_above_minao_and_converged(mf: Any, cycles: int) -> None:
    plain = from_minao(mf)
    ours = from_us(mf)
    assert plain.converged
    assert ours.converged
    assert ours.cycles <= cycles
    assert ours.e_tot < plain.e_tot + 1e-6
    report = ours.init_guess_report
    assert report.refined
    assert report.suspicion
    assert report.origin in ("guess", "minao")


def test_an_ordinary_molecule_is_not_suspected(water: gto.Mole) -> None:
    for mf in (water.RKS(xc="b3lyp"), water.RHF(), water.RKS(xc="pbe")):
        _, report = tracegrad_guess(mf, report=True)
        assert report.refined
        assert not report.suspicion
        assert not report.origin


def test_a_stable_state_is_asked_for_and_followed() -> None:
    """Square H4 with its atoms in closed shells: the state from F_ref's orbitals is a saddle point."""
    mf = scf.ROHF(molecule("H 0.53033 0 0; H 0 0.53033 0; H -0.53033 0 0; H 0 -0.53033 0", "6-31++g"))
    _, plain = tracegrad_guess(mf, report=True)
    dm, followed = tracegrad_guess(mf, report=True, stable=True)
    mf.kernel(dm)
    assert mf.converged
    assert not followed.unstable
    assert not plain.unstable  # with a sign of other states it is followed without being asked for
    assert scf.stability.rohf_internal(mf, verbose=0, return_status=True)[1]


def test_the_registered_key_may_ask_for_stability(water: gto.Mole) -> None:
    mf = water.RHF()
    _, report = mf.get_init_guess(key="tracegrad", stable=True, report=True)
    assert report.suspicion == "stable=True"
    assert not report.unstable


@pytest.mark.parametrize("kind", ["RHF", "UHF", "ROHF"])
def test_the_twin_of_hartree_fock_is_hartree_fock(kind: str, water: gto.Mole) -> None:
    """With its own integrals a twin's SCF is PySCF's."""
    mf = getattr(water, kind)()
    calculation = Calculation(mf, water)
    cheap = calculation.cheap(1)
    assert cheap.exact
    outcome = Twin(calculation, cheap).scf(calculation.minao(), 50, Thresholds(1e-9, 1e-5))
    expected = mf.kernel()
    assert outcome.converged
    assert outcome.cycles == mf.cycles
    assert outcome.energy + water.energy_nuc() == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("xc", ["b3lyp", "pbe", "wb97x"])
def test_the_second_order_solver_of_a_twin_finds_the_state_of_its_diis(xc: str, formaldehyde: gto.Mole) -> None:
    calculation = Calculation(formaldehyde.RKS(xc=xc), formaldehyde)
    twin = Twin(calculation, calculation.cheap(1).thinned())
    by_diis = twin.scf(calculation.minao(), 50, ROUGH)
    rough = twin.scf(calculation.minao(), 4, ROUGH).state
    by_newton = twin.newton(rough, 20, ROUGH)
    assert by_newton.converged
    assert by_newton.energy == pytest.approx(by_diis.energy, abs=1e-6)
    assert twin.lower_direction(by_diis.state) is None


def test_a_twin_changes_nothing_of_the_user(water: gto.Mole) -> None:
    mf = water.RKS(xc="b3lyp")
    before = {name: id(value) for name, value in vars(mf).items()}
    calculation = Calculation(mf, water)
    twin = Twin(calculation, calculation.cheap(1))
    state = twin.scf(calculation.minao(), 3, ROUGH).state
    twin.newton(state, 2, ROUGH)
    twin.lower_direction(state)
    assert {name: id(value) for name, value in vars(mf).items()} == before


def test_the_energy_of_smeared_states_has_their_entropy(water: gto.Mole) -> None:
    mf = smearing_(water.RHF(), sigma=0.05)
    mf.kernel()
    calculation = Calculation(mf, water)
    twin = Twin(calculation, calculation.cheap(1))
    outcome = twin.scf(calculation.minao(), 50, ROUGH)
    assert outcome.state.entropy > 0
    assert outcome.energy + water.energy_nuc() == pytest.approx(mf.e_free, abs=1e-5)


def test_restricted_open_shells_with_smearing_are_served() -> None:
    """PySCF makes of a smeared ROHF an RHF with an odd number of electrons."""
    mf = smearing_(molecule("N 0 0 -0.7; N 0 0 0.7", charge=-1, spin=1).ROHF(), sigma=0.1)
    _, report = tracegrad_guess(mf, report=True)
    assert report.route == "reference"
    assert report.refined


def test_enlargement_of_a_small_gap_is_measured() -> None:
    """A gap of 0.009 hartree: one step without DIIS makes a gradient tens of times larger."""
    mol = molecule("H 0 0 0; H 0 0 3.7")
    calculation = Calculation(mol.RKS(xc="pbe"), mol)
    cheap = calculation.cheap(1)
    state = Twin(calculation, cheap).scf(calculation.minao(), 50, Thresholds(1e-9, 1e-5)).state
    assert enlargement(calculation, cheap, 0.0, _disturbed(calculation, state)) > 5


def test_an_ordinary_gradient_stays_as_it_is(water: gto.Mole) -> None:
    calculation = Calculation(water.RKS(xc="b3lyp"), water)
    cheap = calculation.cheap(1)
    state = Twin(calculation, cheap).scf(calculation.minao(), 50, Thresholds(1e-8, 1e-4)).state
    assert enlargement(calculation, cheap, 0.0, state) < 3


def _disturbed(calculation: Calculation, state: Any) -> Any:
    """The state with its frontier orbitals turned by a hundred-thousandth."""
    c = np.array(state.mo_coeff)
    occupied = int(np.sum(np.asarray(state.mo_occ) > 0))
    turned = c.copy()
    turned[:, occupied - 1] += 1e-5 * c[:, occupied]
    turned[:, occupied] -= 1e-5 * c[:, occupied - 1]
    return state._replace(mo_coeff=turned, dm=calculation.worker_copy().make_rdm1(turned, state.mo_occ))


def test_what_is_handed_over_is_smaller_where_steps_enlarge_it() -> None:
    thresholds = Thresholds(1e-9, 3e-5)
    assert wanted_gradient(thresholds, 0.5) == pytest.approx(1.5e-5)
    assert wanted_gradient(thresholds, 30.0) == pytest.approx(1.5e-5 / (900 / 3))
    assert passes(wanted_gradient(thresholds, 30.0), thresholds, 30.0)
    assert not passes(wanted_gradient(thresholds, 1e4), thresholds, 1e4)  # below what can be had


def test_thresholds_are_those_of_the_object(water: gto.Mole) -> None:
    mf = water.RHF()
    assert Thresholds.of(mf).gradient == pytest.approx(np.sqrt(mf.conv_tol))
    mf.conv_tol_grad = 1e-3
    assert Thresholds.of(mf) == Thresholds(mf.conv_tol, 1e-3)


def test_metals_are_expected_to_have_several_states() -> None:
    mol = molecule("V", "def2-svp", spin=3)
    assert "V" in forewarned(Calculation(mol.UHF(), mol))
    zinc = molecule("Zn", "def2-svp")
    assert not forewarned(Calculation(zinc.RHF(), zinc))


def test_unrefined_guesses_of_metals_are_minao() -> None:
    mf = molecule("V", "def2-svp", spin=3).UHF()
    _, report = tracegrad_guess(mf, refine=False, report=True)
    assert report.route == "minao"
    assert "open d or f shells (V)" in report.reason
    with pytest.raises(OutsideDomain, match="not to be refined"):
        tracegrad_guess(mf, refine=False, strict=True)


def test_contaminated_spins_are_a_sign(water: gto.Mole) -> None:
    mol = molecule("N 0 0 0; N 0 0 3.0")
    mf = mol.UHF()
    dm, report = tracegrad_guess(mf, spins={0: 3, 1: -3}, report=True)
    assert "spin contamination" in report.suspicion
    calculation = Calculation(mf, mol)
    state = calculation.first_state(calculation.spread(mol.RHF().get_fock(dm=mol.RHF().get_init_guess())))
    assert calculation.spin_contamination(state) == pytest.approx(0.0, abs=1e-8)
    mf.mo_coeff, mf.mo_occ = dm.mo_coeff, dm.mo_occ
    contaminated = state._replace(dm=dm, mo_occ=dm.mo_occ)
    assert calculation.spin_contamination(contaminated) == pytest.approx(mf.spin_square()[0], abs=1e-6)
    ordinary = Calculation(water.RHF(), water)
    start = ordinary.first_state(water.RHF().get_fock(dm=water.RHF().get_init_guess()))
    assert not suspicion(ordinary, ordinary.cheap(1), start, ())


def test_removal_of_linear_dependencies_by_pivoted_cholesky() -> None:
    """It leaves another number of orbitals than PySCF's own, in a basis too dependent for single precision."""
    mol = molecule("H 0 0 0; F 0 0 0.92; ghost-F 0 0 0.94", "aug-cc-pvdz")
    mf = remove_linear_dep_(mol.RHF(), force_pivoted_cholesky=True)
    plain = from_minao(mf)
    ours = from_us(mf)
    assert ours.cycles < plain.cycles
    assert ours.e_tot == pytest.approx(plain.e_tot, abs=1e-7)
    assert ours.init_guess_report.refined


def test_fitted_integrals_on_disk_are_not_read_in_cheap_cycles(formaldehyde: gto.Mole) -> None:
    mf = formaldehyde.RKS(xc="b3lyp").density_fit()
    mf.with_df.max_memory = lib.current_memory()[0]
    _, report = tracegrad_guess(mf, report=True)
    assert report.route == "minao"
    assert report.cheap_builds == 0
    assert "on disk" in report.reason


def test_the_fitting_basis_that_pyscf_makes_up_is_not_spoken_of(capfd: pytest.CaptureFixture[str]) -> None:
    mol = gto.M(atom="O 0 0 0; H 0 -0.757 0.587; H 0 0.757 0.587", basis="gth-dzvp", pseudo="gth-pade", verbose=3)
    tracegrad_guess(mol.RKS(xc="lda,vwn"))
    out, err = capfd.readouterr()
    assert "auxbasis" not in out + err
