"""The solvent in the cheap operator, against PySCF's own."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from pyscf import df, gto
from threadpoolctl import threadpool_info

from pyscf_tracegrad import tracegrad_guess
from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.reaction import reaction_field


def hydronium(cart: bool = False) -> gto.Mole:
    atoms = "O 0 0 .08; H 0 .94 -.21; H .814 -.47 -.21; H -.814 -.47 -.21"
    return gto.M(atom=atoms, charge=1, basis="sto-3g", cart=cart, verbose=0)


@pytest.mark.parametrize("method", ["C-PCM", "IEF-PCM", "SS(V)PE", "COSMO"])
@pytest.mark.parametrize("cart", [False, True], ids=["spherical", "cartesian"])
def test_potential_is_that_of_pyscf_to_the_fitting_error(method: str, cart: bool) -> None:
    mf = hydronium(cart).RHF().PCM()
    mf.with_solvent.method = method
    dm = np.asarray(mf.get_init_guess())
    expected = mf.with_solvent.kernel(dm)[1]
    field = reaction_field(mf, df.DF(mf.mol).build())
    assert field is not None
    assert np.abs(expected).max() > 0.02
    assert np.abs(field(dm)[0] - expected).max() < 5e-3 * np.abs(expected).max()


def test_potential_is_affine_in_the_density() -> None:
    mf = hydronium().RHF().PCM()
    field = reaction_field(mf, df.DF(mf.mol).build())
    assert field is not None
    rng = np.random.default_rng(0)
    a, b = (m + m.T for m in rng.normal(size=(2, mf.mol.nao, mf.mol.nao)))
    assert np.abs(field(a)[0] + field(b)[0] - field(a + b)[0] - field(np.zeros_like(a))[0]).max() < 1e-9


def test_potential_is_the_derivative_of_the_energy() -> None:
    mf = hydronium().RHF().PCM()
    field = reaction_field(mf, df.DF(mf.mol).build())
    assert field is not None
    dm = np.asarray(mf.get_init_guess())
    rng = np.random.default_rng(0)
    change = rng.normal(size=dm.shape)
    change += change.T
    slope = 0.5 * (field(dm + change)[1] - field(dm - change)[1])
    assert slope == pytest.approx(np.vdot(field(dm)[0], change), rel=1e-9)


@pytest.mark.parametrize("name", ["PCM", "SMD", "ddCOSMO"])
def test_solvent_is_known_to_the_refinement(name: str) -> None:
    """With the field in the cheap operator the guess is close; without it half of minao's cycles remain."""
    mol = hydronium()
    mf, plain = (getattr(mol.RHF(), name)() for _ in range(2))
    energy = plain.kernel()
    dm, report = tracegrad_guess(mf, report=True)
    assert report.refined
    assert mf.kernel(dm0=dm) == pytest.approx(energy, abs=1e-8)
    assert mf.cycles <= plain.cycles - 3


def frozen(mol: gto.Mole) -> Any:
    mf = mol.RHF().PCM()
    mf.with_solvent.frozen = True
    return mf


@pytest.mark.parametrize("make", [lambda mol: mol.RHF(), frozen], ids=["gas", "frozen"])
def test_no_field_where_none_responds(make: Any) -> None:
    mf = make(hydronium())
    assert reaction_field(mf, df.DF(mf.mol).build()) is None


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def test_blas_threads_come_back_when_two_threads_overlap() -> None:
    before = blas_threads()
    inside, leave = threading.Event(), threading.Event()

    def first() -> None:
        with one_blas_thread():
            inside.set()
            leave.wait(300)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(300)
    with one_blas_thread(), one_blas_thread():
        leave.set()
        thread.join(300)  # the first one in is out before the last one
        assert set(blas_threads()) <= {1}
    assert blas_threads() == before
