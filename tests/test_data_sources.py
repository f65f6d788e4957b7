"""Sources of molecules: every kind is read as it is written, and what cannot be used is named."""

from __future__ import annotations

import csv
import importlib.util
import itertools
import json
import re
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyscf.data import nist
from rdkit import Chem
from rdkit.Chem import AllChem

from data import qm9
from data.errors import SetFileError
from data.files import safe_name
from data.settings import SetFile, Source, read_set
from data.sources import read_source, read_sources

ANGSTROM = 1 / 0.529177210903  # bohr; CODATA 2018
WATER = "O 0 0 0.1173\nH 0 0.7572 -0.4692\nH 0 -0.7572 -0.4692\n"
WATER_BOHR = "O 0 0 0.2217\nH 0 1.4309 -0.8867\nH 0 -1.4309 -0.8867\n"
HYDROXIDE = "O 0 0 0\nH 0 0 0.96\n"
HYDRONIUM = WATER + "H 0.8 0 0.6\n"


def xyz(atoms: str, comment: str = "") -> str:
    return f"{atoms.count(chr(10))}\n{comment}\n{atoms}"


def write(folder: Path, text: str, name: str = "water.xyz") -> str:
    (folder / name).write_text(text)
    return name


def refused(source: Source, folder: Path, *parts: str) -> None:
    """Reading fails with one message of one line that holds all parts."""
    with pytest.raises(SetFileError) as caught:
        read_source(source, folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


# SMILES


def test_smiles_are_named_by_the_file_or_counted(tmp_path: Path) -> None:
    write(tmp_path, "# a comment\nC methane\n\nCO\tmethyl alcohol\n[NH4+]\n", "list.smi")
    seeds = read_source(Source(smiles=("O", "N ammonia", " S\thydrogen \t sulfide "), files=("list.smi",)), tmp_path)
    assert [(s.name, s.smiles) for s in seeds] == [
        ("mol0001", "O"),
        ("ammonia", "N"),
        ("hydrogen_sulfide", "S"),
        ("methane", "C"),
        ("methyl_alcohol", "CO"),
        ("mol0006", "[NH4+]"),
    ]
    assert all(s.structure is None for s in seeds)


@pytest.mark.parametrize(
    ("smiles", "parts"),
    [
        ("C1CC", ("'C1CC'", "entry 2")),
        ("CN(C)(C)C", ("'CN(C)(C)C'", "valence")),
        ("C[CH2]", ("radical", "'C[CH2]'")),
        ("[O][O]", ("radical", "2 unpaired")),
        ("C*", ("unknown element",)),
        ("[Na+].[Cl-]", ("2 molecules", "geometry")),
        ("", ("empty",)),
        ("[U]", ("'[U]'",)),
    ],
)
def test_bad_smiles_are_named(
    smiles: str, parts: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    refused(Source(smiles=("C", smiles)), tmp_path, *parts)
    assert capfd.readouterr().err == ""  # RDKit's log


def test_bad_lines_of_a_smiles_file_are_named(tmp_path: Path) -> None:
    write(tmp_path, "C\n\nCCO,ethanol\n", "list.smi")
    refused(Source(files=("list.smi",)), tmp_path, "list.smi, line 3", "'CCO,ethanol'")
    (tmp_path / "list.smi").write_bytes(b"\xff\xfe\x00C")
    refused(Source(files=("list.smi",)), tmp_path, "list.smi", "not a text file")
    refused(Source(files=("none.smi",)), tmp_path, "none.smi", "No such file")
    write(tmp_path, "# nothing\n", "list.smi")
    refused(Source(files=("list.smi",)), tmp_path, "list.smi", "no molecule")


def test_a_bare_proton_is_read_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (seed,) = read_source(Source(smiles=("[H+]",), max_atoms=1), tmp_path)
    assert seed.smiles == "[H+]"
    assert capfd.readouterr().err == ""


# XYZ


def test_xyz_frames_units_and_charges(tmp_path: Path) -> None:
    frames = xyz(WATER, "it's water") + xyz(HYDROXIDE, "charge=-1 energy=-75.3") + xyz(HYDRONIUM, "total_charge=1")
    write(tmp_path, frames, "a b.xyz")
    write(tmp_path, xyz(HYDRONIUM), "alone.xyz")
    seeds = read_source(Source(kind="xyz", files=("a b.xyz",)), tmp_path)
    structures = [s.structure for s in seeds]
    assert [s.name for s in seeds] == ["a_b_1", "a_b_2", "a_b_3"]
    assert [s.charge for s in structures if s] == [0, -1, 1]
    assert [s.parent for s in structures if s] == ["a_b_1", "a_b_2", "a_b_3"]
    assert structures[0] is not None
    np.testing.assert_array_equal(structures[0].atomic_numbers, [8, 1, 1])
    np.testing.assert_allclose(structures[0].positions[1], [0, 0.7572 * ANGSTROM, -0.4692 * ANGSTROM], rtol=1e-9)
    (alone,) = read_source(Source(kind="xyz", files=("alone.xyz",), charge=1), tmp_path)
    assert alone.name == "alone"
    assert alone.structure is not None
    assert alone.structure.charge == 1


def test_xyz_in_bohr(tmp_path: Path) -> None:
    (seed,) = read_source(Source(kind="xyz", files=(write(tmp_path, xyz(WATER_BOHR)),), unit="bohr"), tmp_path)
    assert seed.structure is not None
    np.testing.assert_allclose(seed.structure.positions[1], [0, 1.4309, -0.8867])


def test_extended_xyz_with_columns_and_without_a_period(tmp_path: Path) -> None:
    atoms = ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.96]], info={"charge": -1})
    atoms.new_array("partial", np.array([-0.9, -0.1]))
    ase.io.write(tmp_path / "ext.xyz", atoms, format="extxyz")
    (seed,) = read_source(Source(kind="xyz", files=("ext.xyz",)), tmp_path)
    assert seed.structure is not None
    assert seed.structure.charge == -1
    atoms.set_cell([5, 5, 5])
    atoms.pbc = True
    ase.io.write(tmp_path / "ext.xyz", atoms, format="extxyz")
    refused(Source(kind="xyz", files=("ext.xyz",)), tmp_path, "frame 1", "periodic")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (xyz(WATER) + xyz(HYDROXIDE), ("frame 2", "9 electrons", "charge=")),
        (xyz(WATER.replace("O", "Xx")), ("frame 1", "unknown element 'Xx'")),
        (xyz(WATER.replace("O", "X")), ("frame 1", "unknown element 'X'")),
        (xyz(WATER.replace("O", "8")), ("frame 1", "unknown element '8'")),
        (xyz(WATER) + "4\n\n" + WATER, ("frame 2", "3 atoms, expected 4")),
        (xyz(WATER.replace("0.1173", "1.1*^-1")), ("frame 1", "'1.1*^-1'")),
        (xyz(WATER.replace("0.1173", "nan")), ("frame 1", "NaN")),
        (xyz(WATER, "charge=0.5"), ("frame 1", "charge 0.5 is not an integer")),
        (xyz(WATER, "charge=minus"), ("frame 1", "charge minus is not an integer")),
        (xyz(WATER, "multiplicity=3"), ("frame 1", "open shell")),
        (xyz(WATER, "Multiplicity=3"), ("frame 1", "open shell")),
        (xyz(WATER, "charge: 2"), ("frame 1", "mentions a charge", "'charge: 2'", "`charge=2`")),
        (xyz(WATER) + xyz(WATER, "it has Charge 2"), ("frame 2", "mentions a charge", "Charge 2")),
        (xyz(WATER, "total_charge: 2"), ("frame 1", "mentions a charge")),
        (xyz(WATER, "charge=2 Charge=0"), ("frame 1", "'charge' is stated twice")),
        (xyz(WATER) + "5\n", ("frame 2 (line 6)", "0 atoms, expected 5")),
        (xyz(WATER) + "\n5", ("frame 2 (line 7)", "0 atoms, expected 5")),
        (xyz(WATER) + "\n" + xyz(WATER) + "\n\nthe end\n", ("frame 3 (line 14)", "'the end'", "number of atoms")),
        (xyz(WATER) + "H 0 0 5\n", ("frame 2 (line 6)", "'H 0 0 5'", "number of atoms")),
        (xyz(WATER) + "\n" + xyz(WATER) + xyz(WATER.replace("0.1173", "here")), ("frame 3 (line 12)", "XYZ format")),
        (xyz(WATER).replace("H 0 0.7572", "\nH 0 0.7572"), ("frame 1", "1 atoms, expected 3")),
        ("0\n\n", ("frame 1", "'0'", "number of atoms")),
        (" \n\n", ("no frames",)),
        ("what is this\n", ("frame 1", "not in XYZ format")),
        ("", ("empty",)),
        (xyz("H 0 0 0\nH 0 0 0.1\n"), ("frame 1", "unit")),
        (xyz(WATER_BOHR), ("frame 1", "bohr read as angstrom", "source.unit = 'angstrom'")),
    ],
)
def test_bad_xyz_files_are_named(text: str, parts: tuple[str, ...], tmp_path: Path) -> None:
    refused(Source(kind="xyz", files=(write(tmp_path, text, "bad.xyz"),)), tmp_path, "bad.xyz", *parts)


@pytest.mark.parametrize(("before", "between", "after"), [("", "\n", ""), ("\n", " \n\n", "\n\n"), ("", "\r\n", " ")])
def test_blank_lines_around_frames_are_skipped(before: str, between: str, after: str, tmp_path: Path) -> None:
    frames = [xyz(WATER), xyz(HYDROXIDE, "charge=-1"), xyz("He 0 0 0\n")]
    write(tmp_path, before + between.join(frames) + after)
    seeds = read_source(Source(kind="xyz", files=("water.xyz",)), tmp_path)
    assert [s.structure.atomic_numbers.tolist() for s in seeds if s.structure] == [[8, 1, 1], [8, 1], [2]]
    assert [s.structure.charge for s in seeds if s.structure] == [0, -1, 0]


@pytest.mark.parametrize(
    ("comment", "charge"),
    [
        ("Charge=-2", -2),
        ("CHARGE=2 energy=1.5", 2),
        ("Total_Charge = 2", 2),
        ("charge='2'", 2),
        ("water without one", 4),
        ("Properties=species:S:1:pos:R:3:charge:R:1", 4),  # a column of partial charges
    ],
)
def test_charges_of_comment_lines(comment: str, charge: int, tmp_path: Path) -> None:
    atoms = "".join(f"{line} 0.1\n" for line in WATER.splitlines())
    source = Source(kind="xyz", files=(write(tmp_path, xyz(atoms, comment)),), charge=4)
    (seed,) = read_source(source, tmp_path)
    assert seed.structure is not None
    assert seed.structure.charge == charge


def test_angstrom_taken_for_bohr_is_noticed(tmp_path: Path) -> None:
    for atoms in (WATER, "N 0 0 0\nN 0 0 1.1\n", "F 0 0 0\nF 0 0 1.41\n", "H 0 0 0\nH 0 0 0.74\n"):
        source = Source(kind="xyz", files=(write(tmp_path, xyz(atoms)),), unit="bohr")
        refused(source, tmp_path, "water.xyz, frame 1", "angstrom read as bohr", "source.unit = 'bohr'")


def test_what_is_rightly_far_apart_is_accepted(tmp_path: Path) -> None:
    for atoms in ("Ar 0 0 0\nAr 0 0 3.8\nAr 3.8 0 0\n", "H 0 0 0\nH 0 0 2.0\n", "He 0 0 0\n"):
        assert len(read_source(Source(kind="xyz", files=(write(tmp_path, xyz(atoms)),)), tmp_path)) == 1


@settings(max_examples=40, deadline=None)
@given(smiles=st.sampled_from(("O", "C", "C#C", "N#N", "FF", "ClC=O", "CCO", "CS", "c1ccccc1", "CBr", "[H][H]", "OO")))
def test_the_unit_is_told_for_every_kind_of_bond(smiles: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("unit")
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    AllChem.UFFOptimizeMolecule(mol)
    (folder / "m.xyz").write_text(Chem.MolToXYZBlock(mol))
    source = Source(kind="xyz", files=("m.xyz",))
    (seed,) = read_source(source, folder)
    assert seed.structure is not None
    refused(Source(kind="xyz", files=("m.xyz",), unit="bohr"), folder, "angstrom read as bohr")
    if seed.structure.n_atoms > 2:
        lines = [
            f"{Chem.GetPeriodicTable().GetElementSymbol(int(z))} {x[0]} {x[1]} {x[2]}"
            for z, x in zip(seed.structure.atomic_numbers, seed.structure.positions, strict=True)
        ]
        (folder / "m.xyz").write_text(xyz("\n".join(lines) + "\n"))
        refused(source, folder, "bohr read as angstrom")


# SD files


def embedded(smiles: str, title: str = "") -> Any:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=3)
    mol.SetProp("_Name", title)
    return mol


def write_sdf(folder: Path, *mols: Any) -> str:
    with Chem.SDWriter(str(folder / "set.sdf")) as writer:
        for mol in mols:
            writer.write(mol)
    return "set.sdf"


def test_sdf_titles_charges_and_positions(tmp_path: Path) -> None:
    mols = [embedded(s, t) for s, t in (("CCO", "ethanol"), ("C[NH3+]", ""), ("CO", "twin"), ("CS", "twin"))]
    seeds = read_source(Source(kind="sdf", files=(write_sdf(tmp_path, *mols),)), tmp_path)
    assert [s.name for s in seeds] == ["ethanol", "set_2", "twin_3", "twin_4"]
    structures = [s.structure for s in seeds]
    assert [s.charge for s in structures if s] == [0, 1, 0, 0]
    for mol, structure in zip(mols, structures, strict=True):
        assert structure is not None
        assert [a.GetAtomicNum() for a in mol.GetAtoms()] == structure.atomic_numbers.tolist()
        # four decimals are in the file
        np.testing.assert_allclose(mol.GetConformer().GetPositions() * ANGSTROM, structure.positions, atol=2e-4)
        assert structure.smiles == Chem.MolToSmiles(Chem.RemoveHs(mol))


def test_drawings_and_missing_hydrogens_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    flat = Chem.MolFromSmiles("CCO")
    AllChem.Compute2DCoords(flat)
    refused(
        Source(kind="sdf", files=(write_sdf(tmp_path, embedded("C"), flat),)), tmp_path, "entry 2", "drawing", "CCO"
    )
    bare = Chem.RemoveHs(embedded("CCO"))
    refused(Source(kind="sdf", files=(write_sdf(tmp_path, bare),)), tmp_path, "entry 1", "6 hydrogens")
    radical = embedded("C[CH2]")
    refused(Source(kind="sdf", files=(write_sdf(tmp_path, radical),)), tmp_path, "entry 1", "radical")
    name = write_sdf(tmp_path, embedded("C"), embedded("N"))
    (tmp_path / name).write_text((tmp_path / name).read_text().replace(" N ", " Qq "))
    refused(Source(kind="sdf", files=(name,)), tmp_path, "entry 2", "set.sdf")
    refused(Source(kind="sdf", files=("none.sdf",)), tmp_path, "none.sdf", "no such file")
    refused(Source(kind="sdf", files=(write(tmp_path, "junk\n", "junk.sdf"),)), tmp_path, "junk.sdf")
    assert capfd.readouterr().err == ""


# ASE databases


@pytest.mark.parametrize("name", ["set.db", "set.json"])
def test_ase_rows_names_and_charges(name: str, tmp_path: Path) -> None:
    hydroxide = ase.Atoms("OH", positions=[[0, 0, 0], [0, 0, 0.96]])
    partial = hydroxide.copy()
    partial.set_initial_charges([-0.9, -0.1])
    water = ase.Atoms("OH2", positions=[[0, 0, 0.1173], [0, 0.7572, -0.4692], [0, -0.7572, -0.4692]])
    with ase.db.connect(tmp_path / name) as database:
        database.write(water, name="water", charge=0)
        database.write(hydroxide, charge=-1)
        database.write(hydroxide, total_charge=-1)
        database.write(partial)
    seeds = read_source(Source(kind="ase", files=(name,), charge=4), tmp_path)
    assert [s.name for s in seeds] == ["water", "set_2", "set_3", "set_4"]
    assert [s.structure.charge for s in seeds if s.structure] == [0, -1, -1, -1]
    assert seeds[0].structure is not None
    np.testing.assert_allclose(seeds[0].structure.positions, water.positions * ANGSTROM, rtol=1e-9)
    with ase.db.connect(tmp_path / name) as database:
        database.write(hydroxide)
    (*_, last) = read_source(Source(kind="ase", files=(name,), charge=-1), tmp_path)
    assert last.structure is not None
    assert last.structure.charge == -1
    refused(Source(kind="ase", files=(name,)), tmp_path, f"{name}, row 5", "9 electrons", "total_charge")


def test_bad_databases_are_named(tmp_path: Path) -> None:
    refused(Source(kind="ase", files=("none.db",)), tmp_path, "none.db", "no such file")
    assert not (tmp_path / "none.db").exists()
    for name in ("junk.db", "junk.json", "junk.txt"):
        write(tmp_path, "junk " * 100, name)
        refused(Source(kind="ase", files=(name,)), tmp_path, name, "not an ASE database")
    with ase.db.connect(tmp_path / "cell.json") as database:
        database.write(ase.Atoms("He", cell=[3, 3, 3], pbc=True))
    refused(Source(kind="ase", files=("cell.json",)), tmp_path, "row 1", "periodic")


# QM9


def first_rows(part: int, n: int) -> list[dict[str, str]]:
    spec = importlib.util.find_spec("qm9pack")
    assert spec is not None
    assert spec.origin is not None
    with (Path(spec.origin).parent / "data" / f"qm9_part{part}.csv").open(newline="") as file:
        return list(itertools.islice(csv.DictReader(file), n))


def test_qm9_is_read_from_its_three_parts(tmp_path: Path) -> None:
    rows = [row for part in (3, 1, 2) for row in first_rows(part, 3)]
    indices = tuple(int(row["Index"]) for row in rows)
    seeds = read_source(Source(kind="qm9", indices=indices), tmp_path)
    assert [s.name for s in seeds] == [f"{i:06d}" for i in indices]  # in the order asked for
    for seed, row in zip(seeds, rows, strict=True):
        structure = seed.structure
        assert structure is not None
        assert structure.gdb_index == int(row["Index"])
        assert structure.smiles == row["SMILES"]
        assert structure.n_atoms == int(row["N_atoms"])
        symbols = re.findall(r"'(\w+)'", row["Elements"])
        assert [Chem.GetPeriodicTable().GetAtomicNumber(s) for s in symbols] == structure.atomic_numbers.tolist()
        np.testing.assert_allclose(structure.positions, np.array(json.loads(row["XYZ_Ang"])) * ANGSTROM, rtol=1e-9)


def test_the_first_molecule_of_qm9_is_methane(tmp_path: Path) -> None:
    (seed,) = read_source(Source(kind="qm9", indices=(1,)), tmp_path)
    assert seed.structure is not None
    distances = np.linalg.norm(seed.structure.positions[1:] - seed.structure.positions[0], axis=1)
    np.testing.assert_allclose(distances, 1.0919 * ANGSTROM, atol=1e-3)


def test_qm9_molecules_whose_numbers_end_in_a_point() -> None:
    """Five linear or planar ones; acetylene is the first of them."""
    indices = (4, 23, 24, 486, 59818)
    seeds = read_source(Source(kind="qm9", indices=indices), Path())
    assert [seed.structure.gdb_index for seed in seeds if seed.structure] == list(indices)
    acetylene = seeds[0].structure
    assert acetylene is not None
    carbons = acetylene.positions[acetylene.atomic_numbers == 6]
    assert np.linalg.norm(carbons[0] - carbons[1]) * nist.BOHR == pytest.approx(1.199, abs=1e-3)


@pytest.mark.parametrize(
    ("indices", "parts"),
    [
        ((1, 0), ("not 0", "1 to 133885")),
        ((133886,), ("not 133886",)),
        ((1, -5), ("not -5",)),
        ((58,), ("58 is one of the 3,054",)),
        ((7, 3, 7), ("names 7 twice",)),
    ],
)
def test_wrong_qm9_indices_are_named(indices: tuple[int, ...], parts: tuple[str, ...], tmp_path: Path) -> None:
    refused(Source(kind="qm9", indices=indices), tmp_path, "source.indices", *parts)


def test_qm9_draws_from_all_of_it(tmp_path: Path) -> None:
    table = qm9.scan()
    assert len(table.lines) == 130831
    assert (np.diff(table.lines["index"]) > 0).all()
    assert table.lines["index"][-1] == 133885
    # 29 atoms at most, 18.0 on average: published facts of QM9
    assert table.lines["n_atoms"].max() == 29
    assert table.lines["n_atoms"].mean() == pytest.approx(18.0, abs=0.05)
    seeds = read_source(Source(kind="qm9", count=20, seed=5, max_atoms=12), tmp_path)
    small = table.lines["index"][table.lines["n_atoms"] <= 12]
    expected = sorted(np.random.default_rng(5).permutation(len(small))[:20])
    assert [s.structure.gdb_index for s in seeds if s.structure] == small[expected].tolist()
    assert max(s.structure.n_atoms for s in seeds if s.structure) <= 12


def test_files_that_are_not_qm9s_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qm9, "find_files", lambda: (tmp_path / "qm9_part1.csv",))
    write(tmp_path, "a,b\n1,2\n", "qm9_part1.csv")
    refused(Source(kind="qm9", indices=(1,)), tmp_path, "qm9_part1.csv", "not the file of qm9pack")
    monkeypatch.undo()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)  # noqa: ARG005
    refused(Source(kind="qm9", indices=(1,)), tmp_path, "pip install")


# what holds for every kind


def test_draws_are_repeatable_and_in_order(tmp_path: Path) -> None:
    alkanes = tuple("C" * n for n in range(1, 21))
    drawn = [s.smiles for s in read_source(Source(smiles=alkanes, count=8, seed=3), tmp_path)]
    assert drawn == [s.smiles for s in read_source(Source(smiles=alkanes, count=8, seed=3), tmp_path)]
    assert drawn == sorted(drawn, key=len)
    assert len(set(drawn)) == 8
    assert drawn != [s.smiles for s in read_source(Source(smiles=alkanes, count=8, seed=4), tmp_path)]
    # alkanes have 3 n + 2 atoms
    small = read_source(Source(smiles=alkanes, count=4, max_atoms=14), tmp_path)
    assert [s.smiles for s in small] == ["C", "CC", "CCC", "CCCC"]
    refused(Source(smiles=alkanes, count=5, max_atoms=14), tmp_path, "count is 5", "4 molecules of at most 14 atoms")
    refused(Source(smiles=alkanes, max_atoms=4), tmp_path, "no molecule of at most 4 atoms")


def test_a_larger_draw_keeps_the_smaller_one(tmp_path: Path) -> None:
    alkanes = tuple("C" * n for n in range(1, 21))
    draws = [{s.smiles for s in read_source(Source(smiles=alkanes, count=k, seed=7), tmp_path)} for k in range(1, 21)]
    assert [len(draw) for draw in draws] == list(range(1, 21))
    assert all(smaller < larger for smaller, larger in itertools.pairwise(draws))


def test_the_example_set_draws_no_molecule_twice() -> None:
    found = read_sources(read_set(Path(__file__).parents[1] / "data" / "sets" / "shipped-like.toml"))
    indices = [seed.structure.gdb_index for _, seed in found if seed.structure]
    assert len(indices) == len(set(indices)) == 910


def test_doubled_names_are_refused(tmp_path: Path) -> None:
    refused(Source(smiles=("C a", "N a")), tmp_path, "'a'", "rename")
    left_out = "named 'wasser' once characters that do not go into file names are left out"
    refused(Source(smiles=("C wasser", "N ?wasser")), tmp_path, left_out, "'?wasser'", "rename")
    refused(Source(smiles=("C a/b", "N a_b")), tmp_path, "'a_b' once", "'a/b' and 'a_b'", "rename")
    with pytest.raises(SetFileError, match="two molecules are named 'a';"):
        read_source(Source(smiles=("C a", "N a")), tmp_path)
    for name in ("h2o.xyz", "(h2o.xyz"):
        write(tmp_path, xyz(WATER), name)
    refused(Source(kind="xyz", files=("h2o.xyz", "(h2o.xyz")), tmp_path, "'h2o' once", "'(h2o'", "rename")
    refused(Source(smiles=("C a", "N a_ionp3")), tmp_path, "'a_ionp3'", "ion of 'a'")
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, xyz(WATER))
    refused(Source(kind="xyz", files=("one/water.xyz", "two/water.xyz")), tmp_path, "'water'", "rename")


def test_names_of_several_sources_are_told_apart(tmp_path: Path) -> None:
    write(tmp_path, xyz(WATER), "mol0001.xyz")
    sources = (
        Source(smiles=("C", "N")),
        Source(smiles=("O",)),
        Source(kind="xyz", files=("mol0001.xyz",)),
    )
    found = read_sources(SetFile("s", sources, folder=tmp_path))
    assert [seed.name for _, seed in found] == ["mol0001", "mol0002", "mol0001_s2", "mol0001_s3"]
    assert [source for source, _ in found] == [sources[0], sources[0], sources[1], sources[2]]
    assert found[-1][1].structure is not None
    assert found[-1][1].structure.name == found[-1][1].structure.parent == "mol0001_s3"
    with pytest.raises(SetFileError, match="set is empty"):
        read_sources(SetFile("s", ()))


def test_settings_without_meaning_are_refused(tmp_path: Path) -> None:
    refused(Source(smiles=("C",), charge=1), tmp_path, "source.charge", "'smiles'")
    refused(Source(kind="qm9", indices=(1,), unit="bohr"), tmp_path, "source.unit", "'qm9'")


def test_elements_beyond_gfn2_are_refused_only_where_it_is_needed(tmp_path: Path) -> None:
    write(tmp_path, xyz("U 0 0 0\nO 0 0 1.8\nO 0 0 -1.8\n", "charge=2"), "uranyl.xyz")
    assert len(read_source(Source(kind="xyz", files=("uranyl.xyz",)), tmp_path)) == 1
    refused(Source(kind="xyz", files=("uranyl.xyz",), frames=1), tmp_path, "uranyl", "GFN2-xTB")


@given(st.text(max_size=30))
def test_safe_names_are_safe(text: str) -> None:
    name = safe_name(text)
    assert re.fullmatch(r"|[\w+][\w.+-]*", name)
    assert safe_name(name) == name


def test_names_that_are_not_ascii_stay_names(tmp_path: Path) -> None:
    for name in ("水 é", "ethanol-β", "Ω"):
        write(tmp_path, xyz("He 0 0 0\n"), f"{name}.xyz")
    source = Source(kind="xyz", files=("水 é.xyz", "ethanol-β.xyz", "Ω.xyz"))
    assert [seed.name for seed in read_source(source, tmp_path)] == ["水_é", "ethanol-β", "Ω"]
