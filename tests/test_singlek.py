"""Exchange in single precision against PySCF's from the same fitted integrals."""

from __future__ import annotations

import numpy as np
import pytest
from pyscf import df, gto, lib
from pyscf.scf import hf

from pyscf_tracegrad import singlek
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.density import spin_factors
from pyscf_tracegrad.singlek import SingleK


def fitted(mol: gto.Mole) -> df.DF:
    return df.DF(mol).build()


def single_k(with_df: df.DF) -> SingleK:
    return SingleK(with_df._cderi, with_df.mol.nao, max(with_df.mol.nelec))


@pytest.mark.parametrize("elements", [1, 20000, 1 << 20])
@pytest.mark.parametrize("spins", [1, 2])
def test_equals_pyscf(elements: int, spins: int, formaldehyde: gto.Mole, monkeypatch: pytest.MonkeyPatch) -> None:
    """In blocks of one fitting function, of several, and of all."""
    monkeypatch.setattr(singlek, "_ELEMENTS", elements)
    dm = np.array(hf.init_guess_by_minao(formaldehyde))
    dms = dm if spins == 1 else np.stack([0.55 * dm, 0.45 * dm])
    with_df = fitted(formaldehyde)
    expected = with_df.get_jk(dms, hermi=1, with_j=False)[1].reshape(spins, *dm.shape)
    error = single_k(with_df)(spin_factors(dms, formaldehyde.intor("int1e_ovlp"))) - expected
    assert 0.0 < np.sqrt((error**2).mean()) < 3e-7
    assert np.abs(error).max() < 1e-5


def test_spins_of_different_numbers_of_orbitals() -> None:
    mol = gto.M(atom="O 0 0 0; H 0 0 0.97; H 0.9 0 -0.3", basis="def2-svp", charge=1, spin=1, verbose=0)
    dms = mol.UHF().set(conv_tol=1e-4).run().make_rdm1()
    with_df = fitted(mol)
    factors = spin_factors(dms, mol.intor("int1e_ovlp"))
    assert [len(f.occupations) for f in factors] == [5, 4]
    assert np.abs(single_k(with_df)(factors) - with_df.get_jk(np.array(dms), with_j=False)[1]).max() < 1e-5


def test_as_much_memory_as_the_triangles(formaldehyde: gto.Mole) -> None:
    with_df, nao = fitted(formaldehyde), formaldehyde.nao
    triangles = 1e-6 * with_df._cderi.nbytes
    assert single_k(with_df).megabytes == pytest.approx(triangles * nao / (nao + 1))


def test_only_with_integrals_in_memory_and_room_for_them_twice(
    formaldehyde: gto.Mole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lib, "current_memory", lambda: (100.0, 100.0))
    with_df = fitted(formaldehyde)
    megabytes = 1e-6 * with_df._cderi.nbytes
    assert SingleK.possible(with_df._cderi, 100.0 + 2.1 * megabytes)
    assert not SingleK.possible(with_df._cderi, 100.0 + 1.9 * megabytes)
    with_df.max_memory = 0  # to disk
    with_df.reset().build()
    assert not SingleK.possible(with_df._cderi, 1e6)


def test_full_memory_leaves_the_thinned_operator_in_double(
    formaldehyde: gto.Mole, monkeypatch: pytest.MonkeyPatch
) -> None:
    dm = hf.init_guess_by_minao(formaldehyde)
    cheap = CheapFock(formaldehyde)
    thin = cheap.thinned()
    monkeypatch.setattr(lib, "current_memory", lambda: (1e6, 1e6))
    in_double = thin(dm)
    assert not thin._single
    monkeypatch.undo()
    in_single = thin(dm)
    assert len(thin._single) == 1
    assert 0.0 < np.abs(in_single - in_double).max() < 1e-5


def test_a_density_that_is_no_projector_stays_in_double(water: gto.Mole) -> None:
    """The square root of a negative occupation is no number."""
    minao = np.array(hf.init_guess_by_minao(water))
    odd = 2.0 * np.array(water.RHF().set(conv_tol=1e-4).run().make_rdm1()) - minao
    assert min(f.occupations.min() for f in spin_factors(odd, water.intor("int1e_ovlp"))) < 0
    thin = CheapFock(water).thinned()
    assert np.isfinite(thin(odd)).all()
    assert not thin._single
