"""The whole model against PySCF: rotations, inversion, translation, permutation, batches; and that it can learn."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from network_helpers import (
    EVERY_ELEMENT,
    SAP,
    TABLE,
    ao_matrix,
    molecule,
    prepared,
    random_model,
    random_rotation,
    rotated,
)
from pyscf import gto

from pyscf_tracegrad.backbones import make_backbone
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.model import ModelInput
from pyscf_tracegrad.pretrained import correction, load_model, network_input
from pyscf_tracegrad.reference import Reference, build_reference

SMALL = ModelConfig(reference=SAP, channels=16, layers=2, invariants=24, trace_hidden=16, radial=12)


@pytest.mark.parametrize("inversion", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_rotated_molecule_gives_rotated_fock(inversion: bool, dtype: torch.dtype, bound: float) -> None:
    mol = molecule()
    model = random_model(SMALL).to(dtype)
    before = correction(model, *prepared(mol, SMALL))
    assert np.abs(before).max() > 0.1  # the random model does something
    for seed in range(3):
        rotation = random_rotation(seed, inversion)
        turned = rotated(mol, rotation)
        u = ao_matrix(mol, rotation)
        after = correction(model, *prepared(turned, SMALL))
        assert np.abs(u.T @ before @ u - after).max() < bound


@pytest.mark.parametrize("inversion", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_shipped_model_is_equivariant_with_the_reference_rotated(
    inversion: bool, dtype: torch.dtype, bound: float
) -> None:
    """F_ref + dF of the shipped weights; F_ref itself rotated by U, as its grid has an orientation (test_reference)."""
    mol = molecule()
    model = copy.deepcopy(load_model().checkpoint.model).to(dtype)
    graph, reference = prepared(mol, model.config)
    before = reference.fock + correction(model, graph, reference)
    for seed in range(3):
        rotation = random_rotation(seed, inversion)
        u = ao_matrix(mol, rotation)
        turned_reference = Reference(
            u.T @ reference.fock @ u,
            np.array([u.T @ g @ u for g in reference.responses]),
            u.T @ reference.overlap @ u,
        )
        turned_graph = molecule_graph(rotated(mol, rotation), load_model().checkpoint.shells, model.config.cutoff)
        after = turned_reference.fock + correction(model, turned_graph, turned_reference)
        assert np.abs(u.T @ before @ u - after).max() < bound


def test_translation_changes_nothing() -> None:
    mol = molecule()
    model = random_model(SMALL).double()
    shifted = rotated(mol, np.eye(3), shift=3.7)
    assert np.abs(correction(model, *prepared(mol, SMALL)) - correction(model, *prepared(shifted, SMALL))).max() < 1e-10


def test_permuted_atoms_give_permuted_fock() -> None:
    atoms = EVERY_ELEMENT.split("; ")
    order = [3, 5, 0, 2, 4, 1]
    mol, shuffled = molecule(), molecule("; ".join(atoms[k] for k in order))
    model = random_model(SMALL).double()
    before, after = correction(model, *prepared(mol, SMALL)), correction(model, *prepared(shuffled, SMALL))
    slices = mol.aoslice_by_atom()
    index = np.concatenate([np.arange(slices[k, 2], slices[k, 3]) for k in order])
    assert np.abs(before[np.ix_(index, index)] - after).max() < 1e-10


def test_shell_order_of_the_basis_does_not_matter() -> None:
    """The same basis listed backwards: the same Fock matrix after reordering."""
    mol = molecule("O 0 0 0; H 0.1 0 0.96; H 0.93 0.1 -0.2")
    backwards = {s: list(reversed(gto.basis.load("def2-svp", s))) for s in ("O", "H")}
    other = gto.M(atom=mol._atom, unit="Bohr", basis=backwards, verbose=0)
    # gto.M sorts shells by l; undo that, so that _bas itself is in another order
    per_atom = [np.flatnonzero(other._bas[:, gto.ATOM_OF] == a) for a in range(other.natm)]
    other._bas = other._bas[np.concatenate([rows[::-1] for rows in per_atom])]
    model = random_model(SMALL).double()
    before, after = correction(model, *prepared(mol, SMALL)), correction(model, *prepared(other, SMALL))
    assert not np.allclose(before, after)
    map_to = np.argmax(np.abs(gto.intor_cross("int1e_ovlp", other, mol)) > 1 - 1e-9, axis=1)
    assert sorted(map_to) == list(range(mol.nao))
    assert np.abs(before[np.ix_(map_to, map_to)] - after).max() < 1e-10


def join(first: ModelInput, second: ModelInput) -> ModelInput:
    values = {}
    for field in dataclasses.fields(ModelInput):
        a, b = getattr(first, field.name), getattr(second, field.name)
        values[field.name] = (
            torch.cat([a, b + len(first.element)], 1) if field.name == "edge_index" else torch.cat([a, b])
        )
    return ModelInput(**values)


def test_batch_equals_single() -> None:
    model = random_model(SMALL).double()
    water = molecule("O 0 0 0; H 0.1 0 0.96; H 0.93 0.1 -0.2")
    singles = [network_input(*prepared(m, SMALL), torch.float64) for m in (molecule(), water)]
    with torch.inference_mode():
        alone = [model(s) for s in singles]
        both = model(join(*singles))
    for name in ("site", "pair"):
        assert torch.allclose(torch.cat([getattr(a, name) for a in alone]), getattr(both, name), atol=1e-12, rtol=0)


def test_single_atom_has_no_edges() -> None:
    neon_like = molecule("F 0 0 0", charge=-1)
    model = random_model(SMALL).double()
    fock = correction(model, *prepared(neon_like, SMALL))
    p = [3, 4, 5]
    assert np.allclose(fock[np.ix_(p, p)], fock[3, 3] * np.eye(3), atol=1e-12)  # spherical


def test_charge_reaches_the_network() -> None:
    model = random_model(SMALL).double()
    graph, reference = prepared(molecule(), SMALL)
    charged = dataclasses.replace(graph, charge=1)
    assert np.abs(correction(model, graph, reference) - correction(model, charged, reference)).max() > 1e-6


def test_far_pairs_go_to_the_reference_smoothly() -> None:
    """dF of a pair vanishes at the cutoff, without a step."""
    model = random_model(dataclasses.replace(SMALL, cutoff=10.0)).double()
    sizes = []
    for distance in (9.9, 9.999, 10.001):
        mol = gto.M(atom=[("O", (0, 0, 0)), ("O", (0, 0, distance))], unit="B", basis="def2-svp", verbose=0)
        graph, reference = molecule_graph(mol, TABLE, 10.0), build_reference(mol, SAP)
        sizes.append(np.abs(correction(model, graph, reference)[:14, 14:]).max())
    assert sizes[0] > sizes[1] > sizes[2] == 0.0
    assert sizes[1] < 1e-6


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(ValueError, match="no backbone 'nonsense'"):
        make_backbone(dataclasses.replace(SMALL, backbone="nonsense"), None)  # type: ignore[arg-type]


def test_input_with_wrong_shapes_is_refused() -> None:
    inputs = network_input(*prepared(molecule(), SMALL), torch.float32)
    with pytest.raises(ValueError, match="do not fit"):
        dataclasses.replace(inputs, positions=inputs.positions[:-1])
    with pytest.raises(ValueError, match="do not fit"):
        dataclasses.replace(inputs, pair=inputs.pair[:-1])
