"""Reference Fock matrices: their formula, their symmetry, and that they are worth their builds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from network_helpers import ao_matrix, random_rotation, rotated
from pyscf import gto
from pyscf.scf import hf

from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.config import ReferenceSettings
from pyscf_tracegrad.density import fermi_density
from pyscf_tracegrad.reference import Reference, build_reference, combine, gauge_step
from training.metrics import occupied_virtual_error

SAP = ReferenceSettings("sap", steps=0)


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_damped_steps_follow_the_formula(formaldehyde: gto.Mole, steps: int) -> None:
    settings = ReferenceSettings(steps=steps, damping=(0.4, 0.3, 0.2), gauge=False)
    result = build_reference(formaldehyde, settings)
    cheap = CheapFock(formaldehyde, "b3lyp", 1)
    fock = cheap(hf.init_guess_by_minao(formaldehyde))
    assert result.responses.shape == (steps, *fock.shape)
    for k in range(steps):
        response = cheap(fermi_density(fock, cheap.overlap, formaldehyde.nelec, 0.01)) - fock
        assert np.abs(result.responses[k] - response).max() < 1e-10
        fock = fock + (0.4, 0.3, 0.2)[k] * response
    assert np.abs(result.fock - fock).max() < 1e-10
    assert result.cheap is not None
    assert result.cheap.builds == 1 + steps
    assert set(result.seconds) == {"set-up", "F0", "G"}


@pytest.mark.parametrize("mixing", ["damped", "anderson"])
def test_combine_serves_fewer_steps_from_the_same_responses(water: gto.Mole, mixing: Any) -> None:
    """What the cache of the training relies on: F0 and three responses give every number of steps, however mixed."""
    full = build_reference(water, ReferenceSettings(steps=3))
    initial = build_reference(water, ReferenceSettings(steps=0)).fock
    for steps in range(4):
        settings = ReferenceSettings(steps=steps, mixing=mixing)
        expected = build_reference(water, settings).fock
        assert np.abs(combine(initial, full.responses, full.overlap, settings, water.nelec) - expected).max() < 1e-10


def test_gauge_step_takes_the_constant_of_the_response_in_full(water: gto.Mole) -> None:
    overlap = water.intor("int1e_ovlp")
    response = 0.07 * overlap
    settings = ReferenceSettings(steps=1, damping=(0.4, 0.3))
    fock = combine(np.zeros_like(overlap), response[None], overlap, settings, water.nelec)
    assert np.abs(fock - response).max() < 1e-12
    assert np.abs(gauge_step(response, overlap, settings) - 0.6 * response).max() < 1e-12


def test_gauge_step_moves_no_density(water: gto.Mole) -> None:
    with_gauge, without = (build_reference(water, ReferenceSettings(gauge=g)) for g in (True, False))
    assert np.abs(with_gauge.fock - without.fock).max() > 1e-5
    densities = [fermi_density(r.fock, r.overlap, water.nelec, 0.01) for r in (with_gauge, without)]
    assert np.abs(densities[0] - densities[1]).max() < 1e-9


@pytest.mark.parametrize("inversion", [False, True])
def test_sap_rotates_with_the_molecule(every_element: gto.Mole, inversion: bool) -> None:
    """Analytic integrals have no orientation: F(rotated) = U^T F U to rounding."""
    before = build_reference(every_element, SAP)
    assert before.cheap is None
    for seed in range(3):
        rotation = random_rotation(seed, inversion)
        u = ao_matrix(every_element, rotation)
        after = build_reference(rotated(every_element, rotation, shift=1.3), SAP)
        assert np.abs(u.T @ before.fock @ u - after.fock).max() < 1e-10
        assert np.abs(u.T @ before.overlap @ u - after.overlap).max() < 1e-12


def orientation_noise(mol: gto.Mole, settings: ReferenceSettings) -> Any:
    """|U^T F_ref U - F_ref(rotated)|, hartree, largest over three rotations, element by element."""
    before = build_reference(mol, settings).fock
    noise = np.zeros_like(before)
    for seed in range(3):
        rotation = random_rotation(seed, inversion=False)
        u = ao_matrix(mol, rotation)
        after = build_reference(rotated(mol, rotation), settings).fock
        noise = np.maximum(noise, np.abs(u.T @ before @ u - after))
    return noise


def test_orientation_noise_is_that_of_the_grid(every_element: gto.Mole) -> None:
    """A grid's angular points do not turn with the molecule. Measured at level 1: mean 1.0 to 1.7e-6 hartree, largest
    element (3d-3d of fluorine) 4 to 7e-5; level 0 has 2 to 4e-5 and 2e-3, level 3 2e-7 and 1e-5."""
    noise = orientation_noise(every_element, ReferenceSettings())
    assert noise.mean() < 5e-6
    assert noise.max() < 2e-4


def test_reference_without_a_grid_has_no_orientation(every_element: gto.Mole) -> None:
    """So the noise above is the grid's alone: fitting, minao, smearing and steps all turn with the molecule."""
    assert orientation_noise(every_element, ReferenceSettings(xc="hf")).max() < 1e-10


def test_every_step_brings_the_density_nearer(every_element: gto.Mole) -> None:
    """The occupied-virtual error against the converged Fock matrix falls with every damped step."""
    mf = every_element.RKS(xc="b3lyp").density_fit()
    mf.grids.level = 1  # the level of the reference: its error is what is measured, not the grid's
    mf.kernel()
    assert mf.converged
    overlap, converged = mf.get_ovlp(), mf.get_fock()
    errors = []
    for steps in range(4):
        fock = build_reference(every_element, ReferenceSettings(steps=steps)).fock
        errors.append(occupied_virtual_error(fock, converged, overlap, every_element.nelectron // 2))
    assert errors[1] < 0.5 * errors[0]
    assert errors[3] < errors[2] < errors[1]
    mixed = build_reference(every_element, ReferenceSettings(steps=3, mixing="anderson")).fock
    assert occupied_virtual_error(mixed, converged, overlap, every_element.nelectron // 2) < errors[3]


def test_symmetric_molecule_stays_symmetric() -> None:
    """Half-filled degenerate frontier levels share their electrons: F_ref of O2 (singlet) has the axis of the bond."""
    mol = gto.M(atom="O 0 0 -0.6; O 0 0 0.6", basis="def2-svp", verbose=0)
    fock = build_reference(mol, ReferenceSettings()).fock
    px, py = (mol.search_ao_label(f"0 O 2{p}")[0] for p in ("px", "py"))
    assert abs(fock[px, px] - fock[py, py]) < 1e-8


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"strategy": "huckel"}, "strategy 'huckel' is unknown"),
        ({"steps": 4}, "0 to 3 steps, not 4"),
        ({"steps": -1}, "0 to 3 steps, not -1"),
        ({"steps": 3, "damping": (0.4, 0.3)}, r"a number for each of 3 steps: \(0.4, 0.3\)"),
        ({"mixing": "pulay"}, "'damped' or 'anderson', not 'pulay'"),
        ({"strategy": "sap"}, "makes no Fock build"),
    ],
)
def test_bad_settings_are_refused(keywords: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReferenceSettings(**keywords)


def test_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="do not match"):
        Reference(np.zeros((3, 3)), np.zeros((1, 3, 3)), np.eye(4))
