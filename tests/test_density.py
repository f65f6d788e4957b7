"""Occupations, orthogonalisation and densities."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyscf import gto, lib

from pyscf_tracegrad.density import (
    Orbitals,
    aufbau,
    canonical_orthogonalisation,
    diagonalise,
    fermi,
    fermi_density,
    make_density,
    spin_factors,
)

SPECTRA = st.lists(st.floats(-20.0, 20.0), min_size=2, max_size=30).map(lambda values: np.sort(np.array(values)))


def test_aufbau_fills_from_below() -> None:
    assert np.array_equal(aufbau(5, 6), [2, 2, 2, 0, 0])
    assert np.array_equal(aufbau(3, 6), [2, 2, 2])
    assert np.array_equal(aufbau(2, 0), [0, 0])


@pytest.mark.parametrize("n_electrons", [3, 8, -2])
def test_impossible_electron_counts_raise(n_electrons: int) -> None:
    with pytest.raises(ValueError, match=f"{n_electrons} electrons do not fill 3 orbitals"):
        aufbau(3, n_electrons)


@pytest.mark.parametrize("n_electrons", [7, -1])
def test_fermi_refuses_what_does_not_fit(n_electrons: int) -> None:
    with pytest.raises(ValueError, match=f"{n_electrons} electrons do not fill 3 orbitals"):
        fermi(np.arange(3.0), n_electrons, 0.01)


@given(SPECTRA, st.data())
def test_fermi_sums_to_the_electrons(energies: np.ndarray, data: st.DataObject) -> None:
    n_electrons = data.draw(st.integers(0, 2 * len(energies)))
    occupations = fermi(energies, n_electrons, 0.01)
    assert occupations.sum() == pytest.approx(n_electrons, abs=1e-10)
    assert occupations.min() >= 0
    assert occupations.max() <= 2 + 1e-10
    assert (np.diff(occupations) <= 1e-12).all()  # never more electrons in a higher level


def test_fermi_is_aufbau_with_a_gap() -> None:
    energies = np.array([-10.0, -0.6, -0.4, 0.3, 0.9])
    assert np.abs(fermi(energies, 6, 0.01) - aufbau(5, 6)).max() < 1e-12


def test_degenerate_levels_share() -> None:
    energies = np.array([-1.0, -0.5, -0.5, 0.2])
    assert fermi(energies, 4, 0.01) == pytest.approx([2.0, 1.0, 1.0, 0.0], abs=1e-10)


def test_diagonalise_solves_the_generalised_problem(every_element: gto.Mole) -> None:
    fock, overlap = (
        every_element.intor("int1e_kin") + every_element.intor("int1e_nuc"),
        every_element.intor("int1e_ovlp"),
    )
    energies, orbitals = diagonalise(fock, overlap)
    assert np.abs(orbitals.T @ overlap @ orbitals - np.eye(len(fock))).max() < 1e-10
    assert np.abs(fock @ orbitals - overlap @ orbitals * energies).max() < 1e-9
    assert (np.diff(energies) >= 0).all()


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e-4])
def test_near_dependent_basis_is_orthogonalised_canonically(distance: float) -> None:
    """Two s functions almost on top of each other; at 1e-6 bohr the Cholesky factor still exists, but is worthless."""
    mol = gto.M(
        atom=[("He", (0, 0, 0)), ("ghost-He", (0, 0, distance)), ("ghost-He", (0, 0, 1.5))],
        basis={"default": gto.basis.load("def2-svp", "He")},
        unit="Bohr",
        verbose=0,
    )
    overlap = mol.intor("int1e_ovlp")
    assert np.linalg.eigvalsh(overlap)[0] < 1e-8
    energies, orbitals = diagonalise(mol.intor("int1e_kin") + mol.intor("int1e_nuc"), overlap)
    assert len(energies) == orbitals.shape[1] < mol.nao
    assert np.abs(orbitals.T @ overlap @ orbitals - np.eye(len(energies))).max() < 1e-6
    dm = make_density(Orbitals(energies, orbitals), aufbau(len(energies), 2))
    assert np.vdot(dm, overlap) == pytest.approx(2.0, abs=1e-7)
    assert np.abs(dm).max() < 1e6


def test_density_is_idempotent_and_tagged(every_element: gto.Mole) -> None:
    n_electrons = every_element.nelectron
    fock, overlap = (
        every_element.intor("int1e_kin") + every_element.intor("int1e_nuc"),
        every_element.intor("int1e_ovlp"),
    )
    orbitals = diagonalise(fock, overlap)
    occupations = aufbau(len(orbitals.energies), n_electrons)
    dm = make_density(orbitals, occupations)
    assert dm.shape == fock.shape
    assert np.vdot(dm, overlap) == pytest.approx(n_electrons, abs=1e-10)
    assert np.abs(dm @ overlap @ dm - 2 * dm).max() < 1e-10
    assert np.abs(dm - dm.T).max() < 1e-12
    assert np.array_equal(dm.mo_coeff, orbitals.coefficients)
    assert np.array_equal(dm.mo_occ, occupations)


def test_smeared_density_holds_all_electrons(every_element: gto.Mole) -> None:
    fock, overlap = (
        every_element.intor("int1e_kin") + every_element.intor("int1e_nuc"),
        every_element.intor("int1e_ovlp"),
    )
    orbitals = diagonalise(fock, overlap)
    dm = make_density(orbitals, fermi(orbitals.energies, every_element.nelectron, 0.5))
    assert dm.mo_occ.max() - dm.mo_occ[every_element.nelectron // 2 - 1] > 0.01  # it is smeared
    assert np.vdot(dm, overlap) == pytest.approx(every_element.nelectron, abs=1e-10)


def test_canonical_orthogonalisation_leaves_near_dependent_directions_out() -> None:
    rng = np.random.default_rng(4)
    vectors = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    overlap = (vectors * np.array([1e-12, 1e-9, 1e-7, 0.5, 1.0, 2.0])) @ vectors.T
    for threshold, kept in ((1e-8, 4), (1e-6, 3)):
        x = canonical_orthogonalisation(overlap, threshold)
        assert x.shape == (6, kept)
        assert np.abs(x.T @ overlap @ x - np.eye(kept)).max() < 1e-8
    assert canonical_orthogonalisation(overlap).shape == (6, 4)


def test_fermi_density_of_each_spin_has_its_electrons(water: gto.Mole) -> None:
    overlap = water.intor("int1e_ovlp")
    fock = water.RHF().get_fock(dm=water.RHF().get_init_guess(key="minao"))
    dm = fermi_density(np.stack([fock, fock + 0.01 * overlap]), overlap, (6, 4), 0.01)
    assert [np.trace(d @ overlap) for d in dm] == pytest.approx([6, 4], abs=1e-9)
    assert dm.mo_occ.max() <= 1 + 1e-9
    for d, c, occupations in zip(dm, dm.mo_coeff, dm.mo_occ, strict=True):
        assert np.abs((c * occupations) @ c.T - d).max() < 1e-12
    both = fermi_density(np.stack([fock, fock]), overlap, (5, 5), 0.01)
    assert np.abs(both.sum(0) - fermi_density(fock, overlap, (5, 5), 0.01)).max() < 1e-10


def test_spin_factors_give_each_density_back(water: gto.Mole) -> None:
    """From tags of two spins, and without; a tag that belongs to the sum of both spins is not taken for one of them."""
    overlap = water.intor("int1e_ovlp")
    fock = water.RHF().get_fock(dm=water.RHF().get_init_guess(key="minao"))
    tagged = fermi_density(np.stack([fock, fock]), overlap, (6, 4), 0.01)
    restricted = lib.tag_array(np.array(tagged), mo_coeff=tagged.mo_coeff[0], mo_occ=2 * tagged.mo_occ[0])
    for dm in (tagged, np.array(tagged), restricted):
        factors = spin_factors(dm, overlap)
        assert len(factors) == 2
        for factor, d in zip(factors, np.array(dm), strict=True):
            assert np.abs((factor.orbitals * factor.occupations) @ factor.orbitals.T - d).max() < 1e-9
    (single,) = spin_factors(np.array(tagged[0]), overlap)
    assert np.abs((single.orbitals * single.occupations) @ single.orbitals.T - tagged[0]).max() < 1e-9
