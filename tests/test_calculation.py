"""A user's object as the guess sees it, also by the methods that PySCF had before 2.13."""

from __future__ import annotations

import numpy as np
import pytest
from pyscf import gto
from pyscf.scf import hf

from pyscf_tracegrad import tracegrad_guess
from pyscf_tracegrad.calculation import Calculation


@pytest.fixture
def old_pyscf(monkeypatch: pytest.MonkeyPatch) -> None:
    """PySCF before 2.13, as far as this package sees it."""
    if hasattr(hf.SCF, "check_linear_dependency"):
        monkeypatch.delattr(hf.SCF, "check_linear_dependency")


def test_a_pyscf_without_check_linear_dependency_gives_the_same_guess(
    water: gto.Mole, request: pytest.FixtureRequest
) -> None:
    expected = tracegrad_guess(water.RKS(xc="b3lyp"), strict=True)
    request.getfixturevalue("old_pyscf")
    assert np.abs(tracegrad_guess(water.RKS(xc="b3lyp"), strict=True) - expected).max() < 1e-7


@pytest.mark.usefixtures("old_pyscf")
@pytest.mark.parametrize("kind", ["RHF", "UHF", "ROHF", "GHF"])
def test_old_pyscfs_diis_errors_are_measured_in_orthonormal_orbitals(kind: str, water: gto.Mole) -> None:
    calculation = Calculation(getattr(water, kind)(), water)
    orbitals = np.asarray(calculation.orthogonal)
    assert orbitals.ndim == (3 if kind == "UHF" else 2)  # as old PySCF's CDIIS takes them
    for each in orbitals.reshape(-1, *orbitals.shape[-2:]):
        assert np.allclose(each.T @ calculation.overlap @ each, np.eye(each.shape[1]), atol=1e-10)
    state = calculation.first_state(calculation.spread(calculation.hcore))
    assert np.isfinite(state.dm).all()
