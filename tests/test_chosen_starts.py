"""Starts that a user chooses: spin patterns of atoms and fragments, earlier densities of other geometries and bases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyscf import gto, scf

from pyscf_tracegrad import register, tracegrad_guess
from pyscf_tracegrad.earlier import Earlier
from pyscf_tracegrad.errors import BadInput
from pyscf_tracegrad.spins import Fragment, atomic_spin_density, fragment_density

N2 = "N 0 0 0; N 0 0 3.0"


def molecule(atom: str, basis: Any = "cc-pvdz", **keywords: Any) -> gto.Mole:
    return gto.M(atom=atom, basis=basis, verbose=0, **keywords)


def spins_of_atoms(mol: gto.Mole, dm: Any) -> np.ndarray:
    """Mulliken spin populations (natm,)."""
    populations = np.einsum("pq,qp->p", dm[0] - dm[1], mol.intor("int1e_ovlp"))
    return np.array([populations[a:b].sum() for a, b in mol.aoslice_by_atom()[:, 2:]])


@pytest.mark.parametrize(
    ("atom", "spin"), [("H", 1), ("C", 2), ("N", 3), ("O", 2), ("Fe", 4), ("Mn", 5), ("Cr", 6), ("Fe", 5)]
)
def test_an_atom_holds_its_unpaired_electrons(atom: str, spin: int) -> None:
    """Two of them, far apart and opposite; Fe with five gives one electron of its d shell away, as in Fe3+."""
    mol = molecule(f"{atom} 0 0 0; {atom} 0 0 8", "def2-svp")
    dm = atomic_spin_density(mol, {0: spin, 1: -spin})
    assert spins_of_atoms(mol, dm) == pytest.approx([spin, -spin], abs=0.05)
    assert dm[0] + dm[1] == pytest.approx((dm[0] + dm[1]).T, abs=1e-12)


def test_atoms_that_are_not_named_are_as_in_minao() -> None:
    mol = molecule("O 0 0 0; O 0 0 1.2; ghost-H 0 0 3; He 0 0 6")
    dm = atomic_spin_density(mol, {0: 2, 1: -2})
    minao = scf.hf.init_guess_by_minao(mol)
    assert dm.sum(0) == pytest.approx(np.asarray(minao), abs=1e-10)


def test_core_potentials_are_known_to_spins() -> None:
    mol = molecule("I 0 0 0; I 0 0 6", "def2-svp", ecp="def2-svp")
    assert spins_of_atoms(mol, atomic_spin_density(mol, {0: 1, 1: -1})) == pytest.approx([1, -1], abs=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spins": {0: 1}}, "add up to 1, but mol.spin is 0"),
        ({"spins": {0: 3, 7: -3}}, "no atom 7"),
        ({"spins": {0: 5, 1: -5}}, "hold 4 unpaired electrons, not 5"),
        ({"fragments": [((0,), 0, 3)]}, "each of the 2 atoms once"),
        ({"fragments": [((0,), 0, 3), ((1,), 0, 3)]}, "add up to 6, but mol.spin is 0"),
        ({"fragments": [((0,), 1, 3), ((1,), 0, -3)]}, "charges of fragments= add up to 1"),
        ({"fragments": [((0,), 0, 2), ((1,), 0, -2)]}, "fragment of atoms"),
    ],
)
def test_patterns_that_do_not_fit_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tracegrad_guess(molecule(N2).UHF(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"spins": [3, -3]},
        {"spins": {"N": 3}},
        {"fragments": [3, 4]},
        {"spins": {0: 3, 1: -3}, "fragments": [((0,), 0, 3), ((1,), 0, -3)]},
        {"spins": {0: 3, 1: -3}, "start": "minao"},
    ],
)
def test_patterns_of_another_form_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"spins|fragment|pattern"):
        tracegrad_guess(molecule(N2).UHF(), **options)


@pytest.mark.parametrize("kind", ["RHF", "ROHF", "RKS"])
def test_patterns_need_two_spins(kind: str) -> None:
    with pytest.raises(BadInput, match="for UHF, UKS, GHF and GKS"):
        tracegrad_guess(getattr(molecule(N2), kind)(), spins={0: 3, 1: -3})


@pytest.mark.parametrize(
    ("kind", "how"),
    [("UHF", "spins"), ("UHF", "fragments"), ("UHF", "attribute"), ("GHF", "spins"), ("UKS", "fragments")],
)
def test_two_atoms_of_nitrogen_couple_antiferromagnetically(kind: str, how: str) -> None:
    mol = molecule(N2)
    mf = getattr(mol, kind)()
    if how == "attribute":
        mf.init_guess, mf.init_guess_spins = "tracegrad", {0: 3, 1: -3}
        mf.kernel()
    else:
        pattern: Any = {0: 3, 1: -3} if how == "spins" else [((0,), 0, 3), ((1,), 0, -3)]
        dm, report = tracegrad_guess(mf, report=True, **{how: pattern})
        assert report.route == "spins"
        mf.kernel(dm)
    assert mf.converged
    assert mf.cycles <= 2
    symmetric = molecule(N2).RHF() if kind != "UKS" else molecule(N2).RKS()
    assert mf.e_tot < symmetric.kernel() - 0.05
    atom = getattr(molecule("N", spin=3), "UKS" if kind == "UKS" else "UHF")()
    assert mf.e_tot == pytest.approx(2 * atom.kernel(), abs=0.01)


def test_an_unrefined_pattern_is_handed_over_as_it_is() -> None:
    mol = molecule(N2)
    dm = tracegrad_guess(mol.UHF(), spins={0: 3, 1: -3}, refine=False)
    assert np.asarray(dm) == pytest.approx(atomic_spin_density(mol, {0: 3, 1: -3}), abs=1e-12)


def test_a_molecule_alone_takes_a_pattern() -> None:
    mol = molecule(N2)
    dm = tracegrad_guess(mol, spins={0: 3, 1: -3})
    assert dm.shape == (2, mol.nao, mol.nao)
    assert spins_of_atoms(mol, dm) == pytest.approx([3, -3], abs=0.1)


def test_charged_fragments_stand_side_by_side() -> None:
    mol = molecule("Li 0 0 0; F 0 0 6; H 0 0 9; H 0 0 12")
    parts = [Fragment((0,), 1, 0), Fragment((1, 2, 3), -1, 0)]
    made: list[gto.Mole] = []

    def converge(part: gto.Mole) -> np.ndarray:
        made.append(part)
        return np.stack([np.eye(part.nao) * (k + 1) for k in (0, 1)])

    dm = fragment_density(mol, parts, converge)
    assert [part.charge for part in made] == [1, -1]
    assert np.diag(dm[0]) == pytest.approx(1.0)
    assert np.diag(dm[1]) == pytest.approx(2.0)


WATER = "O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692"
MOVED = "O 0 0 0.1173; H 0 0.80 -0.50; H 0 -0.7572 -0.4692"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Any:
    mf = molecule(WATER, "6-31g").RHF()
    mf.chkfile = str(tmp_path_factory.mktemp("chk") / "water.chk")
    mf.kernel()
    return mf


@pytest.mark.parametrize("kind", ["file", "object", "pair"])
@pytest.mark.parametrize("basis", ["6-31g", "def2-svp", "sto-3g"])
def test_an_earlier_density_is_carried_along(kind: str, basis: str, run: Any) -> None:
    start = {"file": run.chkfile, "object": run, "pair": (run.mol, run.make_rdm1())}[kind]
    mol = molecule(MOVED, basis)
    dm = Earlier.of(start).carried_to(mol)
    overlap = mol.intor("int1e_ovlp")
    assert np.trace(dm @ overlap) == pytest.approx(10.0, abs=1e-8)
    assert dm @ overlap @ dm == pytest.approx(2 * dm, abs=1e-8)  # idempotent
    mf = mol.RKS(xc="pbe")
    guess, report = tracegrad_guess(mf, start=start, report=True)
    assert report.route == "earlier"
    assert report.refined
    mf.kernel(guess)
    assert mf.cycles <= 2


def test_nothing_changes_at_the_same_geometry(run: Any) -> None:
    dm = tracegrad_guess(run.mol.RHF(), start=run, refine=False)
    assert np.asarray(dm) == pytest.approx(np.asarray(run.make_rdm1()), abs=1e-8)


def test_a_bare_density_is_of_the_same_molecule(run: Any) -> None:
    dm = np.asarray(run.make_rdm1())
    assert np.asarray(tracegrad_guess(run.mol.RHF(), start=dm, refine=False)) == pytest.approx(dm)
    with pytest.raises(BadInput, match="give \\(mol, dm\\) for another basis"):
        tracegrad_guess(molecule(WATER, "sto-3g").RHF(), start=dm)


@pytest.mark.parametrize("kind", ["UHF", "ROHF", "GHF"])
def test_open_shells_are_carried_too(kind: str, tmp_path: Path) -> None:
    mf = getattr(molecule(WATER, "6-31g", charge=1, spin=1), kind)()
    mf.chkfile = str(tmp_path / "cation.chk")
    mf.kernel()
    mol = molecule(MOVED, "def2-svp", charge=1, spin=1)
    dm = Earlier.of(mf.chkfile).carried_to(mol)
    overlap = mol.intor("int1e_ovlp")
    assert sorted(np.einsum("spq,qp->s", dm, overlap)) == pytest.approx([4.0, 5.0], abs=1e-6)
    guess = tracegrad_guess(getattr(mol, kind)(), start=mf)
    new = getattr(mol, kind)()
    new.kernel(guess)
    assert new.converged
    assert new.cycles <= 2


def test_cartesian_and_spherical_bases_may_meet(run: Any) -> None:
    for cart in (False, True):
        mol = molecule(WATER, "cc-pvdz", cart=cart)
        dm = Earlier.of(run).carried_to(mol)
        again = Earlier.of((mol, dm)).carried_to(run.mol)
        assert np.trace(again @ run.mol.intor("int1e_ovlp")) == pytest.approx(10.0, abs=1e-8)


@pytest.mark.parametrize(
    ("start", "message"),
    [
        ("no such file", "path of a checkpoint file"),
        (__file__, "no checkpoint file"),
        (42, "start takes"),
        (np.zeros(3), "a density is"),
        (np.full((2, 2), np.nan), "real and finite"),
        ((gto.M(atom="He", verbose=0), np.eye(1)), "other atoms"),
        (gto.M(atom="He", verbose=0).RHF(), "has not run yet"),
    ],
)
def test_starts_that_are_none_are_told(start: Any, message: str, water: gto.Mole) -> None:
    with pytest.raises(BadInput, match=message):
        tracegrad_guess(water.RHF(), start=start)


def test_the_key_takes_a_start_as_well(run: Any) -> None:
    register()
    mf = molecule(MOVED, "6-31g").RHF()
    mf.init_guess = "tracegrad"
    dm, report = mf.get_init_guess(key="tracegrad", start=run, report=True)
    assert report.route == "earlier"
    assert dm.shape == (13, 13)
