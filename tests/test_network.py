"""The shipped model against PySCF, and what is FockModel's alone; `contract/` has what every backbone must do."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from network_helpers import (
    SAP,
    ao_matrix,
    molecule,
    prepared,
    random_model,
    random_rotation,
    rotated,
    transformed,
)
from pyscf import gto

from pyscf_tracegrad.backbones import make_backbone
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.pretrained import correction, load_model, network_input
from training.bench.synthetic import alkane

SMALL = ModelConfig(reference=SAP, channels=16, layers=2, invariants=24, trace_hidden=16, radial=12)


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
        turned_reference = transformed(reference, u)
        turned_graph = molecule_graph(rotated(mol, rotation), load_model().checkpoint.shells, model.config.cutoff)
        after = turned_reference.fock + correction(model, turned_graph, turned_reference)
        assert np.abs(u.T @ before @ u - after).max() < bound


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


def test_unknown_backbone_is_named() -> None:
    with pytest.raises(ValueError, match="no backbone 'nonsense'"):
        make_backbone(dataclasses.replace(SMALL, backbone="nonsense"), None)  # type: ignore[arg-type]


def test_input_with_wrong_shapes_is_refused() -> None:
    inputs = network_input(*prepared(molecule(), SMALL), torch.float32)
    with pytest.raises(ValueError, match="do not fit"):
        dataclasses.replace(inputs, positions=inputs.positions[:-1])
    with pytest.raises(ValueError, match="do not fit"):
        dataclasses.replace(inputs, pair=inputs.pair[:-1])


def test_pairs_of_a_chain_grow_linearly_and_none_is_missing() -> None:
    """Pairs that the shipped model leaves out have no overlap to speak of; each more monomer adds as many pairs."""
    model = load_model()
    chains = [alkane(n, 0) for n in (20, 24, 28)]
    graphs = [model.graph(mol) for mol in chains]
    counts = [graph.edge_index.shape[1] for graph in graphs]
    assert counts[2] - counts[1] == pytest.approx(counts[1] - counts[0], abs=20)  # atoms are displaced at random
    assert counts[0] < chains[0].natm * (chains[0].natm - 1) // 2
    overlap, slices = np.abs(chains[0].intor("int1e_ovlp")), chains[0].aoslice_by_atom()[:, 2:]
    seen = {tuple(pair) for pair in graphs[0].edge_index.T.tolist()}
    left = [pair for pair in itertools.combinations(range(chains[0].natm), 2) if pair not in seen]
    assert left
    assert max(overlap[slice(*slices[i]), slice(*slices[j])].max() for i, j in left) < 1e-8
