"""Anderson mixing: exact where responses are linear, the last input where there is nothing to combine."""

from __future__ import annotations

import numpy as np
import pytest
from network_helpers import ao_matrix, random_rotation, rotated
from numpy.typing import NDArray
from pyscf import gto

from pyscf_tracegrad.anderson import density_changes, mix
from pyscf_tracegrad.density import diagonalise

Array = NDArray[np.float64]


def symmetric(n: int, seed: int) -> Array:
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a + a.T


def converged(mol: gto.Mole) -> tuple[Array, Array]:
    mf = mol.RHF().run()
    return mf.get_fock(), mf.get_ovlp()


def test_density_changes_follow_the_formula(water: gto.Mole) -> None:
    fock, ovlp = converged(water)
    energies, c = diagonalise(fock, ovlp)
    response = symmetric(len(ovlp), 0)
    found = density_changes(fock, [response], ovlp, (5, 5))[0].reshape(5, -1)
    for i in range(5):
        for a in range(5, len(ovlp)):
            slow = c[:, i] @ response @ c[:, a] / (energies[a] - energies[i])
            assert abs(found[i, a - 5] - slow) < 1e-12


def test_mixing_ends_a_linear_problem(water: gto.Mole) -> None:
    """Errors of two kinds that the response answers with a factor each: three inputs are enough to remove both."""
    fock, ovlp = converged(water)
    kinds = [1e-4 * symmetric(len(ovlp), seed) for seed in (1, 2)]
    factors = np.array([-1.7, -0.4])  # response = factor * error
    sizes = [np.array([1.0, 0.2]), np.array([0.1, 0.9]), np.array([-0.2, 0.3])]
    focks = [fock + np.tensordot(s, kinds, 1) for s in sizes]
    responses = [np.tensordot(factors * s, kinds, 1) for s in sizes]
    mixed, left = mix(focks, responses, ovlp, water.nelec)
    before = np.abs(focks[-1] - fock).max()
    assert np.abs(mixed - fock).max() < 0.05 * before  # the ridge keeps it from being exact
    assert np.linalg.norm(density_changes(fock, [left], ovlp, water.nelec)[0]) < 0.05 * np.linalg.norm(
        density_changes(fock, [responses[-1]], ovlp, water.nelec)[0]
    )


def test_both_spins_decide_together(water: gto.Mole) -> None:
    """Two equal spins are mixed as the closed shell is; both get the same coefficients."""
    fock, ovlp = converged(water)
    focks = [fock + 1e-3 * symmetric(len(ovlp), seed) for seed in range(3)]
    responses = [1e-3 * symmetric(len(ovlp), seed) for seed in range(3, 6)]
    alone = mix(focks, responses, ovlp, water.nelec)
    both = mix([np.stack([f, f]) for f in focks], [np.stack([g, g]) for g in responses], ovlp, water.nelec)
    for one, two in zip(alone, both, strict=True):
        assert np.abs(two - one).max() < 1e-12


def test_nothing_to_combine(water: gto.Mole) -> None:
    """One matrix; the same matrix twice; no electron; no response at all."""
    fock, ovlp = converged(water)
    response = symmetric(len(ovlp), 0)
    for focks, responses, nelec in (
        ([fock], [response], (5, 5)),
        ([fock, fock], [response, response], (5, 5)),
        ([2 * fock, fock], [2 * response, response], (0, 0)),
        ([2 * fock, fock], [0 * response, 0 * response], (5, 5)),
    ):
        mixed, left = mix(focks, responses, ovlp, nelec)
        assert (mixed == fock).all()
        assert (left == responses[-1]).all()
        assert mixed is not focks[-1]  # the caller's matrices are not touched


@pytest.mark.parametrize("inversion", [False, True])
def test_mixing_turns_with_the_molecule(every_element: gto.Mole, inversion: bool) -> None:
    ovlp = every_element.intor("int1e_ovlp")
    focks = [every_element.intor("int1e_kin") + every_element.intor("int1e_nuc")]
    focks += [focks[0] + 0.01 * symmetric(len(ovlp), seed) for seed in range(2)]
    responses = [0.01 * symmetric(len(ovlp), seed) for seed in range(2, 5)]
    rotation = random_rotation(0, inversion)
    u = ao_matrix(every_element, rotation)
    turned = rotated(every_element, rotation).intor("int1e_ovlp")
    before = mix(focks, responses, ovlp, every_element.nelec)
    after = mix([u.T @ f @ u for f in focks], [u.T @ g @ u for g in responses], turned, every_element.nelec)
    for one, two in zip(before, after, strict=True):
        assert np.abs(u.T @ one @ u - two).max() < 1e-9
