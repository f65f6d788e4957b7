"""AO bookkeeping: round trips under any order of the shells, and refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from network_helpers import TABLE, molecule
from pyscf import gto

from pyscf_tracegrad.graph import molecule_graph
from pyscf_tracegrad.orbitals import AOLayout, ShellTable, UnsupportedBasis, layout, shells_of_atom
from pyscf_tracegrad.orbitals.shells import component_order

ELEMENTS = st.lists(st.sampled_from([1, 6, 7, 8, 9]), min_size=1, max_size=6)


def shuffled(mol: gto.Mole, seed: int) -> gto.Mole:
    """The same molecule with the shells of all atoms in a random order."""
    other = mol.copy()
    other._bas = mol._bas[np.random.default_rng(seed).permutation(mol.nbas)]
    return other


def chain(elements: list[int]) -> gto.Mole:
    atoms = [(z, (1.3 * k, 0.2 * k * k, 0.1)) for k, z in enumerate(elements)]
    return gto.M(atom=atoms, basis="def2-svp", spin=sum(elements) % 2, verbose=0)


def test_table_of_def2_svp() -> None:
    assert TABLE.degrees == (0, 0, 0, 1, 1, 2)
    assert TABLE.width == 14
    assert TABLE.slots(1) == [0, 1, 3]
    assert TABLE.slots(8) == [0, 1, 2, 3, 6, 9]


def test_table_survives_the_checkpoint_form() -> None:
    assert ShellTable.from_list(TABLE.to_list()) == TABLE


@given(ELEMENTS)
@settings(max_examples=15, deadline=None)
def test_every_ao_has_one_slot(elements: list[int]) -> None:
    mol = chain(elements)
    places = layout(mol, TABLE)
    assert places.nao == mol.nao
    assert [TABLE.elements[k] for k in places.element_index] == elements


@given(ELEMENTS, st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_shuffled_shells_give_the_same_blocks(elements: list[int], seed: int) -> None:
    """AO values picked by slot do not depend on the order in which the basis lists its shells."""
    mol = chain(elements)
    other = shuffled(mol, seed)
    points = np.random.default_rng(seed).normal(size=(4, 3))
    values = []
    for m in (mol, other):
        ao = np.pad(m.eval_gto("GTOval_sph", points), ((0, 0), (0, 1)))
        values.append(ao[:, layout(m, TABLE).ao_slots])
    assert np.abs(values[0] - values[1]).max() < 1e-12


@given(st.integers(0, 4))
def test_component_order_is_a_permutation(degree: int) -> None:
    assert sorted(component_order(degree)) == list(range(2 * degree + 1))


def test_p_components_are_yzx() -> None:
    mol = molecule("O 0 0 0")
    slots = layout(mol, TABLE).ao_slots[0]
    labels = [mol.ao_labels()[k] for k in slots[3:6]]
    assert [label.split()[-1] for label in labels] == ["2py", "2pz", "2px"]


def test_general_contraction_is_split() -> None:
    """One `_bas` entry with two contractions is two shells with consecutive AOs."""
    basis = [[0, [3.0, 0.5, 0.1], [0.4, 0.5, 0.9]], [1, [0.8, 1.0]]]
    mol = gto.M(atom="He", basis={"He": basis}, verbose=0)
    found = shells_of_atom(mol, 0)
    assert [(s.degree, first) for s, first in found] == [(0, 0), (0, 1), (1, 2)]
    assert mol.nbas == 2


@pytest.mark.parametrize(
    ("mol", "message"),
    [
        (
            lambda: gto.M(atom="Cl 0 0 0; H 0 0 1.3", basis="def2-svp", verbose=0),
            r"atom 0 \(Cl\): the model knows H, C",
        ),
        (lambda: gto.M(atom="H 0 0 0; H 0 0 0.7", basis="sto-3g", verbose=0), r"atom 0 \(H\): its basis has a shell"),
        (lambda: gto.M(atom="O 0 0 0", basis="def2-tzvp", verbose=0), "its basis has a shell with l = 0"),
        (lambda: gto.M(atom="O 0 0 0", basis="def2-svp", cart=True, verbose=0), "Cartesian"),
    ],
)
def test_what_the_table_lacks_is_named(mol: object, message: str) -> None:
    with pytest.raises(UnsupportedBasis, match=message):
        layout(mol(), TABLE)  # type: ignore[operator]


def test_missing_shell_is_named() -> None:
    part = [shell for shell in gto.basis.load("def2-svp", "O") if shell[0] < 2]
    with pytest.raises(UnsupportedBasis, match="lacks 1 of the shells"):
        layout(gto.M(atom="O", basis={"O": part}, verbose=0), TABLE)


def test_layout_refuses_a_lost_ao() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        AOLayout(np.array([0]), np.array([[0, 2, -1]]))


def test_graph_has_all_near_pairs() -> None:
    graph = molecule_graph(molecule(), TABLE, cutoff=20.0)
    assert graph.edge_index.shape == (2, 15)
    assert molecule_graph(molecule(), TABLE, cutoff=2.5).edge_index.shape[1] < 15
