"""V_xc on a grid in single precision against double precision, and kept against fresh AO values."""

from __future__ import annotations

import numpy as np
import pytest
from pyscf import gto, lib
from pyscf.scf import hf

from pyscf_tracegrad.density import spin_factors
from pyscf_tracegrad.gridxc import GridXC, thin_grid


def grids(mol: gto.Mole, keep_after: int = 0) -> tuple[GridXC, GridXC]:
    """One in double and one in single precision."""
    double, single = (GridXC(mol, thin_grid(mol), mol.max_memory, keep_after, single=s) for s in (False, True))
    return double, single


@pytest.mark.parametrize("spins", [1, 2])
@pytest.mark.parametrize("xc", ["lda,vwn", "b3lyp", "tpss"])
def test_single_precision_is_close_to_double(xc: str, spins: int, formaldehyde: gto.Mole) -> None:
    dm = np.array(hf.init_guess_by_minao(formaldehyde))
    factors = spin_factors(dm if spins == 1 else np.stack([0.55 * dm, 0.45 * dm]), formaldehyde.intor("int1e_ovlp"))
    (double, energy), (single, rough) = (grid(xc, factors) for grid in grids(formaldehyde))
    assert double.shape == single.shape == (spins, *dm.shape)
    assert single.dtype == np.float64
    assert 0.0 < np.sqrt(((single - double) ** 2).mean()) < 3e-7
    assert np.abs(single - double).max() < 5e-6
    assert rough == pytest.approx(energy, abs=1e-4)


def test_far_atoms_make_no_slow_numbers() -> None:
    """AO values and potentials of single precision are zero or far from subnormal."""
    mol = gto.M(atom="He 0 0 0; He 0 0 30", basis="def2-svp", verbose=0)
    _, single = grids(mol)
    single("b3lyp", spin_factors(hf.init_guess_by_minao(mol), mol.intor("int1e_ovlp")))
    values = np.concatenate([ao.ravel() for ao in single._kept.values()])
    assert values.dtype == np.float32
    assert (values == 0).any()
    assert np.abs(values[values != 0]).min() >= np.float32(1e-12)


def test_kept_values_take_half_the_memory_and_change_nothing(formaldehyde: gto.Mole) -> None:
    factors = spin_factors(hf.init_guess_by_minao(formaldehyde), formaldehyde.intor("int1e_ovlp"))
    double, single = grids(formaldehyde, keep_after=1)
    fresh = single("b3lyp", factors)[0]
    assert single.megabytes == 0.0
    double("b3lyp", factors)
    assert np.array_equal(single("b3lyp", factors)[0], fresh)
    double("b3lyp", factors)
    assert np.array_equal(single("b3lyp", factors)[0], fresh)
    assert single.megabytes == pytest.approx(0.5 * double.megabytes)
    single.forget()
    assert single.megabytes == 0.0
    assert np.array_equal(single("b3lyp", factors)[0], fresh)


def test_one_and_two_threads_agree(formaldehyde: gto.Mole) -> None:
    factors = spin_factors(hf.init_guess_by_minao(formaldehyde), formaldehyde.intor("int1e_ovlp"))
    made = []
    for threads in (1, 2, 2):
        with lib.with_omp_threads(threads):
            made.append(grids(formaldehyde)[0]("b3lyp", factors)[0])
    assert np.abs(made[0] - made[1]).max() < 1e-13
    assert np.array_equal(made[1], made[2])
