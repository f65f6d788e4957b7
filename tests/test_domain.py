"""Which calculations are covered: every molecular RHF, ROHF, UHF, GHF is, every other class gets minao and no crash."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pyscf import ao2mo, dft, gto, qmmm, scf
from pyscf.pbc import gto as pbc_gto
from pyscf.pbc import scf as pbc_scf

from pyscf_tracegrad import OutsideDomain, tracegrad_guess
from pyscf_tracegrad.domain import check_molecule, check_network, check_scf

WRAPPED: dict[str, Callable[[gto.Mole], Any]] = {
    "pcm": lambda mol: mol.RHF().PCM(),
    "qmmm": lambda mol: qmmm.mm_charge(mol.RHF(), [[0, 0, 5.0]], [0.5]),
    "smearing": lambda mol: scf.addons.smearing(mol.RHF(), sigma=0.005),
    "x2c1e": lambda mol: mol.RKS(xc="pbe").x2c1e(),
    "newton-df": lambda mol: mol.RHF().density_fit().newton(),
    "range-separated": lambda mol: mol.RKS(xc="wb97x"),
    "meta-gga": lambda mol: mol.RKS(xc="r2scan"),
    "scanner": lambda mol: mol.RHF().as_scanner(),
    "uhf": scf.UHF,
    "uks": dft.UKS,
    "uhf-newton": lambda mol: scf.UHF(mol).newton(),
    "uks-df": lambda mol: mol.UKS(xc="pbe").density_fit(),
    "rohf": scf.ROHF,  # a subclass of RHF, closed shell here
    "roks": dft.ROKS,
    "ghf": scf.GHF,
    "gks": dft.GKS,
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrapped_methods_are_covered(name: str, water: gto.Mole) -> None:
    check_scf(WRAPPED[name](water))


REFUSED: dict[str, Callable[[gto.Mole], Any]] = {
    "dhf": scf.DHF,
    "dks": dft.DKS,
    "x2c": scf.X2C,
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_methods_are_refused_and_still_converge(name: str) -> None:
    """The whole SCF runs: the minao density has the shape of its class."""
    mol = gto.M(atom="H 0 0 0; H 0 0 0.74", basis="sto-3g", verbose=0)
    with pytest.raises(OutsideDomain, match=r"are not covered|is none of RHF, ROHF, UHF and GHF"):
        check_scf(REFUSED[name](mol))
    energies = []
    for key in ("tracegrad", "minao"):
        mf = REFUSED[name](mol)
        mf.init_guess = key
        energies.append(mf.kernel())
    assert energies[0] == pytest.approx(energies[1], abs=1e-10)


def test_one_electron_method_is_covered() -> None:
    """PySCF's HF1e, of an atom with one electron: there is nothing to iterate."""
    mol = gto.M(atom="H", spin=1, basis="def2-svp", verbose=0)
    energies = []
    for key in ("tracegrad", "minao"):
        mf = mol.RHF()
        mf.init_guess = key
        energies.append(mf.kernel())
    assert energies[0] == pytest.approx(energies[1], abs=1e-12)


def test_restricted_closed_shell_object_of_an_open_shell_is_refused(water: gto.Mole) -> None:
    mf = water.RHF()
    mf.mol = gto.M(atom="O", spin=2, basis="def2-svp", verbose=0)
    with pytest.raises(OutsideDomain, match=r"RHF does not take an open shell \(spin 2\)"):
        check_scf(mf)


@pytest.mark.parametrize("kind", ["RHF", "UHF", "ROHF", "GHF", "KRHF", "KUHF", "KROHF", "KGHF"])
def test_periodic_classes_get_minao(kind: str) -> None:
    cell = pbc_gto.M(atom="He 0 0 0", a=np.eye(3) * 3, basis="sto-3g", mesh=[9] * 3, verbose=0)
    with pytest.raises(OutsideDomain, match="periodic"):
        check_molecule(cell)

    def guess(key: str) -> Any:
        method = getattr(pbc_scf, kind)
        mf = method(cell, kpts=cell.make_kpts([2, 1, 1])) if kind.startswith("K") else method(cell)
        return mf.get_init_guess(key=key)

    assert np.array_equal(guess("TraceGrad"), guess("minao"))


def test_model_hamiltonian_without_atoms_still_runs() -> None:
    """A Hubbard chain: PySCF takes its own guess from hcore for a molecule without atoms, and so must our key."""
    mol = gto.M(verbose=0)
    mol.nelectron, mol.incore_anyway = 2, True
    sites = 4
    hopping = -(np.eye(sites, k=1) + np.eye(sites, k=-1))
    repulsion = np.zeros((sites,) * 4)
    repulsion[(np.arange(sites),) * 4] = 1.0
    energies = []
    for key in ("tracegrad", "minao"):
        mf = scf.RHF(mol)
        mf.get_hcore = lambda *_: hopping
        mf.get_ovlp = lambda *_: np.eye(sites)
        mf._eri = ao2mo.restore(8, repulsion, sites)
        mf.init_guess = key
        energies.append(mf.kernel())
    assert energies[0] == pytest.approx(energies[1], abs=1e-9)


def test_strict_can_be_asked_of_one_kernel(water: gto.Mole) -> None:
    mf = water.RHF()
    mf.init_guess = "tracegrad"
    mf.get_ovlp = lambda *_: np.eye(water.nao)
    with pytest.raises(OutsideDomain, match="does not work in the basis"):
        mf.kernel(strict=True)


def test_coincident_atoms_raise_always() -> None:
    """minao fails on the singular overlap, so there is nothing to fall back on."""
    mol = gto.M(atom="H 0 0 0; H 0 0 0", basis="def2-svp", verbose=0)
    for call in (tracegrad_guess, lambda m: m.RHF().get_init_guess(m, "tracegrad")):
        with pytest.raises(OutsideDomain, match=r"atoms 0 \(H\) and 1 \(H\) are at one place"):
            call(mol)


def test_molecule_without_atoms_has_no_guess_by_hand() -> None:
    with pytest.raises(OutsideDomain, match="no atoms"):
        tracegrad_guess(gto.M(verbose=0))


def test_something_else_than_a_molecule_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="takes a Mole or an SCF object, not str"):
        tracegrad_guess("H 0 0 0; F 0 0 0.9")


def test_altered_nucleus_is_not_for_the_network(water: gto.Mole) -> None:
    water._atm[1, gto.mole.CHARGE_OF] = 3
    with pytest.raises(OutsideDomain, match=r"the network does not know a nuclear charge of 3 \(atom 1, H\)"):
        check_network(water)


def test_bare_nucleus_is_refused() -> None:
    with pytest.raises(OutsideDomain, match="no electrons"):
        check_molecule(gto.M(atom="He", charge=2, basis="def2-svp", verbose=0))


def test_foreign_overlap_is_refused(water: gto.Mole) -> None:
    mf = water.RHF()
    mf.get_ovlp = lambda *_: np.eye(water.nao)
    for call in (lambda: tracegrad_guess(mf, strict=True), lambda: mf.get_init_guess(key="tracegrad", strict=True)):
        with pytest.raises(OutsideDomain, match="does not work in the basis of its molecule"):
            call()


def test_route_is_logged_as_pyscf_logs_its_own(water: gto.Mole) -> None:
    mf = water.RKS(xc="lda,vwn")
    mf.verbose, mf.stdout = 4, io.StringIO()
    mf.get_init_guess(key="tracegrad")
    line = "Initial guess from tracegrad: reference Fock matrix, refined: "
    assert line in mf.stdout.getvalue()
    assert f"{mf.init_guess_report.cheap_builds} cheap and 1 exact Fock builds" in mf.stdout.getvalue()
