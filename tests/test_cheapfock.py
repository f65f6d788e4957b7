"""The cheap Fock operator against PySCF's own density-fitted Fock matrix on the same grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pyscf import df, gto, lib
from pyscf.scf import hf

from pyscf_tracegrad.cheapfock import CheapFock, fitting_megabytes
from pyscf_tracegrad.density import occupied_factor
from pyscf_tracegrad.directjk import DirectJK

AUXBASIS = "def2-universal-jkfit"


def pyscf_fock(mol: gto.Mole, xc: str, dm: Any, level: int = 1) -> Any:
    mf = mol.RHF() if xc == "hf" else mol.RKS(xc=xc)
    mf = mf.density_fit(auxbasis=AUXBASIS)
    if xc != "hf":
        mf.grids.level = level
    return mf.get_fock(dm=dm)


@pytest.mark.parametrize("xc", ["hf", "lda,vwn", "pbe", "b3lyp", "tpss", "wb97x", "cam-b3lyp", "hse06"])
def test_equals_pyscf(formaldehyde: gto.Mole, xc: str) -> None:
    """One functional of every kind: none, LDA, GGA, hybrid, meta-GGA, three range separations."""
    dm = hf.init_guess_by_minao(formaldehyde)
    ours = CheapFock(formaldehyde, xc, auxbasis=AUXBASIS)(dm)
    # hse06: PySCF fits the short-range integrals, we take the long-range ones from the full ones
    bound = 1e-4 if xc == "hse06" else 1e-8
    assert np.abs(ours - pyscf_fock(formaldehyde, xc, dm)).max() < bound
    assert np.abs(ours - ours.T).max() < 1e-12


def test_default_auxbasis_is_the_one_of_pyscf(every_element: gto.Mole) -> None:
    dm = hf.init_guess_by_minao(every_element)
    mf = every_element.RKS(xc="b3lyp").density_fit()
    mf.grids.level = 1
    assert np.abs(CheapFock(every_element)(dm) - mf.get_fock(dm=dm)).max() < 1e-8


def test_cartesian_aos() -> None:
    mol = gto.M(atom="O 0 0 0; H 0 0.1 0.96; H 0.93 0 -0.2", basis="def2-svp", cart=True, verbose=0)
    dm = hf.init_guess_by_minao(mol)
    for xc in ("b3lyp", "lda,vwn"):
        assert np.abs(CheapFock(mol, xc, auxbasis=AUXBASIS)(dm) - pyscf_fock(mol, xc, dm)).max() < 1e-8


def converged_density(mol: gto.Mole) -> Any:
    return mol.RKS(xc="lda,vwn").set(conv_tol=1e-4).run().make_rdm1()


def test_untagged_density_gives_the_same(formaldehyde: gto.Mole) -> None:
    tagged = converged_density(formaldehyde)
    assert hasattr(tagged, "mo_coeff")
    cheap = CheapFock(formaldehyde)
    assert np.abs(cheap(tagged) - cheap(np.array(tagged))).max() < 1e-10


def test_density_that_is_no_projector(water: gto.Mole) -> None:
    """Occupations above 2 and below 0, as in a difference of densities: linear J/K must still be right."""
    first, second = np.array(converged_density(water)), hf.init_guess_by_minao(water)
    odd = 2.0 * first - np.array(second)
    cheap = CheapFock(water, "hf")
    expected = 2.0 * cheap(first) - cheap(second)
    assert np.abs(cheap(odd) - expected).max() < 1e-9


def test_factor_gives_the_density_back(water: gto.Mole) -> None:
    overlap = water.intor("int1e_ovlp")
    dm = np.array(hf.init_guess_by_minao(water))
    orbitals, occupations = occupied_factor(dm, overlap)
    assert np.abs((orbitals * occupations) @ orbitals.T - dm).max() < 1e-10
    assert occupations.sum() == pytest.approx(np.vdot(dm, overlap), abs=1e-10)


def test_kept_ao_values_change_nothing(formaldehyde: gto.Mole) -> None:
    dm = hf.init_guess_by_minao(formaldehyde)
    cheap = CheapFock(formaldehyde, keep_ao_after=1)
    fresh = cheap(dm)
    grid = cheap.grid
    assert not grid._kept
    kept, again = cheap(dm), cheap(dm)
    assert sum(ao.shape[1] for ao in grid._kept.values()) == len(grid)
    assert np.abs(kept - fresh).max() < 1e-12
    assert np.abs(again - fresh).max() < 1e-12


def test_little_memory(formaldehyde: gto.Mole) -> None:
    """Nothing fits: integrals made anew and screened, AO values never kept."""
    dm = hf.init_guess_by_minao(formaldehyde)
    exact = formaldehyde.RKS(xc="b3lyp")
    exact.grids.level = 1
    expected = exact.get_fock(dm=dm)
    fitted = CheapFock(formaldehyde)
    assert isinstance(fitted.with_df, df.DF)
    formaldehyde.max_memory = 1
    cheap = CheapFock(formaldehyde, keep_ao_after=0)
    assert isinstance(cheap.with_df, DirectJK)
    for _ in range(2):
        error = np.abs(cheap(dm) - expected)
        assert error.max() < 5e-5
        assert error.mean() < 0.2 * np.abs(fitted(dm) - expected).mean()
    assert not cheap.grid._kept


def test_a_full_process_keeps_a_tenth(formaldehyde: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other data of a script must not make a small molecule slow."""
    monkeypatch.setattr(lib, "current_memory", lambda: (9000.0, 9000.0))
    with_df = CheapFock(formaldehyde, "hf").with_df
    assert isinstance(with_df._cderi, np.ndarray)
    formaldehyde.max_memory = 10.0 * fitting_megabytes(formaldehyde)
    assert isinstance(CheapFock(formaldehyde, "hf").with_df, DirectJK)


def test_fitting_megabytes_are_those_of_the_tensor(formaldehyde: gto.Mole) -> None:
    assert fitting_megabytes(formaldehyde) == pytest.approx(CheapFock(formaldehyde).with_df._cderi.nbytes * 1e-6)


@pytest.mark.parametrize("xc", ["b3lyp", "pbe", "cam-b3lyp"])
def test_direct_builds_follow_the_density(formaldehyde: gto.Mole, xc: str) -> None:
    """Contracted with the change of the density, whatever came in between, with one spin or two."""
    dm = np.array(hf.init_guess_by_minao(formaldehyde))
    direct, mf, uks = DirectJK(formaldehyde, 1e-9), formaldehyde.RKS(xc=xc), formaldehyde.UKS(xc=xc)
    mf.grids.level = uks.grids.level = 1
    cheap = CheapFock(formaldehyde, xc, with_df=direct)
    spins = np.stack([0.55 * dm, 0.45 * dm])
    for density in (dm, 1.01 * dm, spins, 0.98 * dm, 1.02 * spins):
        expected = (mf if density.ndim == 2 else uks).get_fock(dm=density)
        assert np.abs(cheap(density) - expected).max() < 1e-6
    before, again = direct._last, cheap(1.02 * spins)
    assert np.abs(again - expected).max() < 1e-6
    assert len(before) == (2 if xc != "cam-b3lyp" else 4)  # two shapes of density, with the long range once more


def test_builds_are_counted(water: gto.Mole) -> None:
    cheap = CheapFock(water, "hf")
    assert (cheap.builds, cheap.setup_seconds > 0) == (0, True)
    for _ in range(3):
        cheap(hf.init_guess_by_minao(water))
    assert cheap.builds == 3


def test_hcore_of_the_caller_is_used(water: gto.Mole) -> None:
    dm = hf.init_guess_by_minao(water)
    shift = np.diag(np.arange(float(water.nao)))
    plain, shifted = CheapFock(water, "hf"), CheapFock(water, "hf", hcore=hf.get_hcore(water) + shift)
    assert np.abs(shifted(dm) - plain(dm) - shift).max() < 1e-12


def test_input_density_stays_as_it_is(water: gto.Mole) -> None:
    dm = lib.tag_array(np.array(hf.init_guess_by_minao(water)))
    before = dm.copy()
    CheapFock(water)(dm)
    assert np.array_equal(dm, before)


@pytest.mark.parametrize("xc", ["lda,vwn", "pbe", "b3lyp", "wb97x", "tpss", "hf"])
@pytest.mark.parametrize("kind", ["RKS", "UKS"])
def test_the_energy_is_that_of_pyscf_on_the_same_grid_and_fit(xc: str, kind: str, water: gto.Mole) -> None:
    mf = getattr(water, kind)(xc=xc).density_fit()
    mf.grids.level, mf.max_cycle = 1, 2
    mf.kernel()
    cheap = CheapFock(water, xc, 1, with_df=mf.with_df)
    dm = mf.make_rdm1()
    assert cheap.build(dm).energy == pytest.approx(mf.energy_elec(dm)[0], abs=1e-8)
