"""What is made of one molecule: embedding, relaxation, ions and snapshots, against tblite's own interface and against
known chemistry."""

from __future__ import annotations

import dataclasses
import logging
import pickle
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from tblite.interface import Calculator

from data import xtb
from data.errors import MoleculeError
from data.identity import bonds, formula, graph_key, inchi
from data.ions import ions
from data.prepare import change, generator, prepare
from data.settings import Source
from data.smiles import embed, n_atoms
from data.structure import Seed, Structure

ANGSTROM = 1 / 0.529177210903  # bohr; CODATA 2018
EV = 1 / 27.211386245988  # hartree


def structure(atoms: str, charge: int = 0, name: str = "m", smiles: str = "") -> Structure:
    """Of `O 0 0 0; H ...`, angstrom."""
    words = [line.split() for line in atoms.split(";")]
    numbers = np.array([Chem.GetPeriodicTable().GetAtomicNumber(w[0]) for w in words])
    return Structure(name, numbers, np.array([w[1:] for w in words], dtype=float) * ANGSTROM, charge, smiles=smiles)


def seed_of(s: Structure) -> Seed:
    return Seed(s.name, structure=s)


WATER = structure("O 0 0 0.1173; H 0 0.7572 -0.4692; H 0 -0.7572 -0.4692", name="water")


@pytest.fixture(autouse=True)
def _short_equilibration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xtb, "EQUILIBRATION", 30.0)


def made(smiles: str, number: int = 0) -> Structure:
    return embed(Seed("m", smiles=smiles), np.random.default_rng(number))


def energy_and_force(s: Structure) -> tuple[float, float]:
    """Energy, hartree, and largest force on an atom, hartree/bohr, by tblite's own interface."""
    calculator = Calculator("GFN2-xTB", s.atomic_numbers, s.positions, charge=s.charge)
    calculator.set("verbosity", 0)
    result = calculator.singlepoint()
    return result.get("energy"), float(np.linalg.norm(result.get("gradient"), axis=1).max())


def lengths(s: Structure) -> np.ndarray:
    distances = np.linalg.norm(s.positions[:, None] - s.positions, axis=-1)
    return distances[np.triu(bonds(s))] / ANGSTROM


def names(structures: Iterable[Structure]) -> list[str]:
    return [s.name for s in structures]


# embedding


@pytest.mark.parametrize(
    "smiles", ["C", "C#CC(F)=O", "C[NH3+]", "c1ccccc1O", "CC12CC1C2", "C[Si](C)(C)Cl", "OB(O)O", "BrC(F)I"]
)
def test_embedding_gives_the_molecule_of_the_smiles(smiles: str) -> None:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    s = made(smiles)
    assert s.atomic_numbers.tolist() == [a.GetAtomicNum() for a in mol.GetAtoms()]
    assert s.n_atoms == n_atoms(smiles)
    assert s.charge == Chem.GetFormalCharge(mol)
    np.testing.assert_array_equal(bonds(s), Chem.GetAdjacencyMatrix(mol).astype(bool))


def test_embedding_draws_a_conformer() -> None:
    np.testing.assert_array_equal(made("CCCCO", 1).positions, made("CCCCO", 1).positions)
    assert np.abs(made("CCCCO", 1).positions - made("CCCCO", 2).positions).max() > 0.1


def test_what_cannot_be_embedded_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MoleculeError, match="m: RDKit finds no geometry for C1#CC1"):
        made("C1#CC1")
    assert capfd.readouterr().err == ""


# GFN2-xTB


@pytest.mark.parametrize(("smiles", "charge"), [("O", 0), ("CO", 0), ("C[NH3+]", 1), ("CC(=O)[O-]", -1)])
def test_relaxation_ends_in_a_minimum_at_the_charge(smiles: str, charge: int) -> None:
    before = made(smiles)
    after = xtb.relax(before)
    (start, _), (end, force) = energy_and_force(before), energy_and_force(after)
    assert after.charge == charge
    assert end < start
    assert force < 0.02 * EV / ANGSTROM * 1.001
    assert xtb.energy(after) == pytest.approx(end, abs=1e-7)


def test_a_relaxed_geometry_is_lower_than_all_around_it() -> None:
    relaxed = xtb.relax(made("CO"), fmax=1e-3)
    lowest, _ = energy_and_force(relaxed)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert energy_and_force(relaxed.moved(relaxed.positions + 0.02 * rng.standard_normal((6, 3))))[0] > lowest


def test_failures_of_gfn2_are_reasons(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(MoleculeError, match=r"water: the relaxation .* more than 1 steps"):
        xtb.relax(WATER, steps=1)
    with pytest.raises(MoleculeError, match=r"uranyl: GFN2-xTB fails at charge 2 .*elements"):
        xtb.energy(structure("U 0 0 0; O 0 0 1.8; O 0 0 -1.8", 2, "uranyl"))
    with pytest.raises(MoleculeError, match="water: GFN2-xTB fails at charge 0"):
        xtb.snapshots(WATER, 1, 1e7, 10.0, np.random.default_rng(0))
    with pytest.raises(MoleculeError, match="a single atom has no snapshots"):
        xtb.snapshots(structure("He 0 0 0"), 1, 300.0, 10.0, np.random.default_rng(0))
    out = capfd.readouterr()
    assert out.out + out.err == ""


def test_snapshots_have_the_spread_of_their_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xtb, "EQUILIBRATION", 250.0)
    relaxed = xtb.relax(WATER)
    rest = lengths(relaxed).mean()
    # the force constant by tblite's own energies; a classical bond then has <(r - r0)^2> = kB T / k
    axis = (relaxed.positions[1] - relaxed.positions[0]) / np.linalg.norm(relaxed.positions[1] - relaxed.positions[0])
    step = 0.02
    energies = []
    for k in (-1, 0, 1):
        moved = relaxed.positions.copy()
        moved[1] += k * step * axis
        energies.append(energy_and_force(relaxed.moved(moved))[0])
    constant = (energies[0] - 2 * energies[1] + energies[2]) / step**2  # hartree/bohr^2
    expected = np.sqrt(3.1668e-6 * 300.0 / constant) / ANGSTROM
    frames = xtb.snapshots(relaxed, 100, 300.0, 12.0, np.random.default_rng(4))
    stretches = np.array([lengths(relaxed.moved(p)) for p in frames]) - rest
    assert expected == pytest.approx(0.023, abs=0.003)  # angstrom; of 800 N/m
    # 100 correlated frames of two bonds: six other seeds give 0.0215 to 0.0244
    assert stretches.std() == pytest.approx(expected, rel=0.2)


def test_snapshots_are_repeatable_distinct_and_stay_in_place() -> None:
    first, again, other = (xtb.snapshots(WATER, 2, 300.0, 10.0, np.random.default_rng(k)) for k in (1, 1, 2))
    np.testing.assert_allclose(first, again, rtol=0, atol=1e-7)
    assert np.abs(first[0] - other[0]).max() > 1e-2
    assert np.abs(first[1] - first[0]).max() > 1e-2
    masses = np.array([15.999, 1.008, 1.008])
    for positions in first:
        np.testing.assert_allclose(masses @ positions, masses @ WATER.positions, atol=1e-6)


# prepare


def test_a_geometry_is_left_as_it_is_unless_told() -> None:
    (same,) = prepare(seed_of(WATER), Source(kind="xyz", files=("x",)))
    np.testing.assert_array_equal(same.positions, WATER.positions)
    assert (same.name, same.parent, same.frame) == ("water_eq0", "water", 0)
    (relaxed,) = prepare(seed_of(WATER), Source(kind="xyz", files=("x",), relax=True))
    np.testing.assert_allclose(relaxed.positions, xtb.relax(WATER).positions)


def test_a_smiles_is_always_relaxed() -> None:
    (s,) = prepare(Seed("m", smiles="CO"), Source(smiles=("CO",)))
    assert (s.name, s.smiles, s.gdb_index) == ("m_eq0", "CO", -1)
    assert energy_and_force(s)[1] < 0.02 * EV / ANGSTROM * 1.001


def test_frames_are_named_and_start_from_the_relaxed_geometry() -> None:
    source = Source(kind="qm9", indices=(3,), frames=2, interval=10.0, seed=7)
    seed = seed_of(dataclasses.replace(WATER, name="000003", parent="000003", gdb_index=3, smiles="O"))
    equilibrium, *frames = prepare(seed, source)
    np.testing.assert_array_equal(equilibrium.positions, WATER.positions)
    assert names([equilibrium, *frames]) == ["000003_eq0", "000003_md1", "000003_md2"]
    for k, frame in enumerate(frames, start=1):
        assert (frame.parent, frame.frame, frame.gdb_index, frame.smiles) == ("000003", k, 3, "O")
        assert change(equilibrium, frame) == ""
    rng = generator(source, seed, "000003:frames")
    np.testing.assert_allclose(
        frames[0].positions, xtb.snapshots(xtb.relax(WATER), 1, 300.0, 10.0, rng)[0], rtol=0, atol=1e-7
    )


def test_prepare_is_repeatable_and_can_be_sent_to_workers() -> None:
    source = Source(smiles=("NO",), frames=1, interval=5.0, ions="protonate", seed=2)
    seed, source = pickle.loads(pickle.dumps((Seed("m", smiles="NO"), source)))  # noqa: S301
    first, again = prepare(seed, source), pickle.loads(pickle.dumps(prepare(seed, source)))  # noqa: S301
    assert names(first) == names(again)
    for a, b in zip(first, again, strict=True):
        np.testing.assert_allclose(a.positions, b.positions, rtol=0, atol=1e-7)
    other = prepare(seed, dataclasses.replace(source, seed=3))
    assert np.abs(first[1].positions - other[1].positions).max() > 1e-2


def test_the_name_and_the_seed_decide_the_random_numbers() -> None:
    source, seed = Source(smiles=("C",)), Seed("a", smiles="C")
    draws = [
        generator(s, k, w).random()
        for s in (source, dataclasses.replace(source, seed=1))
        for k in (seed, Seed("b", smiles="C"))
        for w in ("embed", "ions")
    ]
    assert len(set(draws)) == 8
    assert generator(source, seed, "embed").random() == draws[0]


def test_a_single_atom_has_no_frames_and_no_ions() -> None:
    source = Source(kind="xyz", files=("x",), frames=2, ions="protonate", relax=True)
    assert names(prepare(seed_of(structure("Ne 0 0 0")), source)) == ["m_eq0"]


def test_broken_bonds_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    # acetylene and oxygen on top of each other react at once
    close = structure("C 0 0 0; C 0 0 1.2; H 0 0 2.26; H 0 0 -1.06; O 0.9 0 0.1; O 0.9 0 1.3", name="close")
    with pytest.raises(MoleculeError, match=r"close: .* in the relaxation"):
        prepare(seed_of(close), Source(kind="xyz", files=("x",), relax=True))
    torn = WATER.positions * np.array([1.0, 2.0, 2.0])
    monkeypatch.setattr("data.prepare.snapshots", lambda *_: [WATER.positions, torn])
    with pytest.raises(MoleculeError, match=r"water_md2: an atom flew off at 700 K; lower source\.temperature"):
        prepare(seed_of(WATER), Source(kind="xyz", files=("x",), frames=2, temperature=700.0))


def test_changes_of_bonds_are_told() -> None:
    ethane = xtb.relax(made("CC"))
    assert change(ethane, ethane) == ""
    left = np.isin(np.arange(8), [0, *np.flatnonzero(bonds(ethane)[0] & (ethane.atomic_numbers == 1))])
    axis = ethane.positions[1] - ethane.positions[0]
    pulled = ethane.moved(ethane.positions - 0.6 * left[:, None] * axis)
    assert change(ethane, pulled) == "a bond broke"
    lost = ethane.positions.copy()
    lost[-1] += 20.0
    assert change(ethane, ethane.moved(lost)) == "an atom flew off"
    dimer = structure("He 0 0 0; He 0 0 3; He 0 0 6")
    assert change(dimer, dimer.moved(dimer.positions * 2)) == ""
    apart = structure("C 0 0 0; C 0 0 4.0; H 0 0 -1.06; H 0 0 5.06")
    assert change(apart, structure("C 0 0 0; C 0 0 1.3; H 0 0 -1.06; H 0 0 2.36")) == "a new bond formed"


def test_a_moved_proton_is_accepted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    # glycine's zwitterion has no minimum in GFN2-xTB without a solvent
    smiles = "[NH3+]CC(=O)[O-]"
    with caplog.at_level(logging.INFO, logger="data.prepare"):
        (s,) = prepare(Seed("glycine", smiles=smiles), Source(smiles=(smiles,)))
    assert "glycine: a proton moved" in caplog.text
    assert s.smiles == ""
    assert inchi(s) == "InChI=1S/C2H5NO2/c3-1-2(4)5/h1,3H2,(H,4,5)"


# ions


def drawn(smiles: str, kind: str, number: int = 0) -> list[tuple[int, Structure]]:
    return list(ions(made(smiles), kind, np.random.default_rng(number)))


@pytest.mark.parametrize(
    ("smiles", "sites"),
    [
        ("NCCO", {0, 3}),
        ("CC#N", {2}),
        ("C1=CC=NC=C1", {3}),
        ("c1cc[nH]c1", set()),
        ("NC=O", {2}),  # the oxygen of an amide, not its nitrogen
        ("C[N+](C)(C)C", set()),
        ("C[N+](=O)[O-]", {2, 3}),
        ("CS", {1}),
        ("CF", set()),
        ("C=C", set()),
    ],
)
def test_protons_go_to_lone_pairs(smiles: str, sites: set[int]) -> None:
    parent, found = made(smiles), drawn(smiles, "protonate")
    assert {site for site, _ in found} == sites
    for site, ion in found:
        assert ion.charge == parent.charge + 1
        assert ion.n_electrons == parent.n_electrons
        assert ion.n_atoms == parent.n_atoms + 1
        assert ion.atomic_numbers[-1] == 1
        assert np.flatnonzero(bonds(ion)[-1]).tolist() == [site]
        np.testing.assert_array_equal(ion.positions[:-1], parent.positions)


@pytest.mark.parametrize(
    ("smiles", "order"),
    [
        ("OCCN", [{0}, {3}, {1, 2}]),
        ("CC(=O)O", [{3}, {0}]),
        ("CCS", [{2}, {0, 1}]),
        ("F", [{0}]),
        ("C(F)(F)(F)F", []),
        ("[NH4+]", [{0}]),
    ],
)
def test_the_most_acidic_protons_go_first(smiles: str, order: list[set[int]]) -> None:
    parent = made(smiles)
    for number in range(3):
        found = drawn(smiles, "deprotonate", number)
        sites = [site for site, _ in found]
        for tier in order:
            assert set(sites[: len(tier)]) == tier
            del sites[: len(tier)]
        assert sites == []
        for _, ion in found:
            assert ion.charge == parent.charge - 1
            assert ion.n_electrons == parent.n_electrons
            assert ion.n_atoms == parent.n_atoms - 1
            assert (ion.atomic_numbers == 1).sum() == (parent.atomic_numbers == 1).sum() - 1


def test_sites_are_drawn() -> None:
    first = {drawn("NCCO", "protonate", number)[0][0] for number in range(12)}
    assert first == {0, 3}


def test_prepared_ions_are_known_ones() -> None:
    source = Source(smiles=("NCC",), ions="protonate", frames=1, interval=5.0)
    structures = prepare(Seed("m", smiles="NCC"), source)
    assert names(structures) == ["m_eq0", "m_md1", "m_ionp0_eq0", "m_ionp0_md1"]
    assert [s.charge for s in structures] == [0, 0, 1, 1]
    assert {s.parent for s in structures} == {"m"}
    assert [s.frame for s in structures] == [0, 1, 0, 1]
    known = Chem.MolToInchi(Chem.MolFromSmiles("CC[NH3+]"))
    assert {inchi(s) for s in structures[2:]} == {known}
    assert energy_and_force(structures[2])[1] < 0.02 * EV / ANGSTROM * 1.001
    # the hydronium ion is a pyramid, and not the plane that it would be if the proton came from straight outside
    _, hydronium = prepare(seed_of(WATER), Source(kind="xyz", files=("x",), ions="protonate"))
    towards = hydronium.positions[1:] - hydronium.positions[0]
    towards /= np.linalg.norm(towards, axis=1)[:, None]
    assert abs(np.linalg.det(towards)) > 0.2


def test_only_ions_where_told() -> None:
    source = Source(smiles=("O",), ions="deprotonate", neutral=False)
    (ion,) = prepare(Seed("m", smiles="O"), source)
    assert (ion.name, ion.charge, formula(ion)) == ("m_ionm0_eq0", -1, "H1O1")
    with pytest.raises(MoleculeError, match="m: no atom to protonate"):
        prepare(Seed("m", smiles="C"), Source(smiles=("C",), ions="protonate", neutral=False))
    assert names(prepare(Seed("m", smiles="C"), Source(smiles=("C",), ions="protonate"))) == ["m_eq0"]


def test_ions_are_as_many_as_asked_and_all_different() -> None:
    # both ends of glycol are alike
    source = Source(smiles=("OCCO",), ions="deprotonate", sites=2, neutral=False, seed=1)
    structures = prepare(Seed("m", smiles="OCCO"), source)
    assert len({graph_key(s) for s in structures}) == len(structures) <= 2
    alone = prepare(Seed("m", smiles="OCCO"), dataclasses.replace(source, sites=1))
    assert names(alone) == names(structures)[:1]


def test_an_ion_that_falls_apart_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    # without its proton the amino group of 2-aminoethanol loses a hydrogen; N-H comes second, C-H third
    source = Source(smiles=("OCCN",), ions="deprotonate", sites=2, neutral=False)
    with caplog.at_level(logging.INFO, logger="data.prepare"):
        structures = prepare(Seed("m", smiles="OCCN"), source)
    assert "m_ionm3: an atom flew off" in caplog.text
    assert len(structures) == 2
    assert structures[0].name == "m_ionm0_eq0"
    assert structures[1].name in ("m_ionm1_eq0", "m_ionm2_eq0")


def test_where_no_ion_holds_together_the_first_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(s: Structure) -> Structure:
        raise MoleculeError(f"{s.name}: fell to pieces")

    monkeypatch.setattr("data.prepare.relax", fails)
    source = Source(kind="xyz", files=("x",), ions="protonate", neutral=False)
    with pytest.raises(MoleculeError, match="water: no ion holds together; the first: water_ionp0: fell to pieces"):
        prepare(seed_of(WATER), source)
    assert names(prepare(seed_of(WATER), dataclasses.replace(source, neutral=True))) == ["water_eq0"]


# identity


@pytest.mark.parametrize("smiles", ["CCO", "C#N", "NC=O", "CC12CC1C2", "OC1CC1F", "c1ccncc1", "C[N+](=O)[O-]"])
def test_the_geometry_has_the_key_of_its_smiles_and_of_rdkit(smiles: str) -> None:
    s = made(smiles)
    plain = dataclasses.replace(s, smiles="")
    known = Chem.MolToInchi(Chem.MolFromSmiles(smiles)).split("/t")[0]
    assert inchi(s) == inchi(plain) == known


def test_all_frames_have_one_key() -> None:
    relaxed = dataclasses.replace(xtb.relax(made("OC1CN1C=O")), smiles="")
    frames = [relaxed.moved(p) for p in xtb.snapshots(relaxed, 12, 300.0, 15.0, np.random.default_rng(5))]
    assert {inchi(f) for f in frames} == {inchi(relaxed)}
    assert {graph_key(f) for f in frames} == {graph_key(relaxed)}
    assert np.abs(frames[0].positions - relaxed.positions).max() > 0.05


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("C[C@H](O)F", "C[C@@H](O)F", True),
        ("F/C=C/F", "F/C=C\\F", True),
        ("C[C@H](O)[C@H](F)Cl", "C[C@H](O)[C@@H](F)Cl", True),
        ("CCO", "COC", False),
        ("C[NH3+]", "CN", False),
        ("CC(C)CC", "CCCCC", False),
        ("C1CCCCC1", "CC1CCCC1", False),
    ],
)
def test_stereo_isomers_are_one_molecule_and_others_are_not(one: str, other: str, same: bool) -> None:
    for key in (inchi, graph_key):
        assert (key(made(one)) == key(made(other))) == same
        assert (
            key(dataclasses.replace(made(one), smiles="")) == key(dataclasses.replace(made(other), smiles=""))
        ) == same


@settings(max_examples=30, deadline=None)
@given(
    smiles=st.sampled_from(("CC(=O)N", "C[NH2+]C", "OC1CC1F", "c1cnc[nH]1", "[H][H]")), seed=st.integers(0, 2**31 - 1)
)
def test_keys_do_not_depend_on_order_nor_orientation(smiles: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    s = dataclasses.replace(made(smiles), smiles="")
    order = rng.permutation(s.n_atoms)
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    turned = dataclasses.replace(s, atomic_numbers=s.atomic_numbers[order], positions=s.positions[order] @ turn + 3.0)
    assert inchi(turned) == inchi(s)
    assert graph_key(turned) == graph_key(s)


def test_a_molecule_without_lewis_structure_has_a_key_all_the_same() -> None:
    xenon = structure("Xe 0 0 0; F 0 0 1.98; F 0 0 -1.98; O 1.7 0 0; O -1.7 0 0; Li 0 4 0; H 0 5.6 0")
    key = inchi(xenon)
    assert key
    assert key == inchi(xenon.moved(xenon.positions * 1.01))
    assert graph_key(xenon).startswith("F2H1Li1O2Xe1/+0/")


def test_a_smiles_of_another_formula_is_not_believed() -> None:
    wrong = dataclasses.replace(WATER, smiles="C")
    assert inchi(wrong) == "InChI=1S/H2O/h1H2"


@pytest.mark.slow
def test_keys_by_geometry_agree_with_the_smiles_of_qm9() -> None:
    from data import qm9

    table = qm9.scan()
    rows = np.random.default_rng(0).choice(len(table.lines), 1000, replace=False)
    structures = [s.structure for s in dataclasses.replace(table, lines=table.lines[np.sort(rows)]).seeds()]
    neutral = [s for s in structures if s and "+" not in s.smiles]
    assert len(neutral) > 900
    assert all(inchi(s) == inchi(dataclasses.replace(s, smiles="")) for s in neutral)
