"""Set files: what is right is read, what is wrong is named before any work starts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.checks import check_theory
from data.errors import MoleculeError, SetFileError
from data.settings import LabelSettings, Source, TheoryLevel, read_set
from data.structure import LabelRow, Seed, Structure

SETS = Path(__file__).parents[1] / "data" / "sets"
SOURCE = '[[source]]\nkind = "smiles"\nsmiles = ["O"]\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "set.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(SETS.glob("*.toml")), ids=lambda p: p.stem)
def test_the_sets_of_the_repository_are_read(path: Path) -> None:
    assert read_set(path).source


def test_values_and_defaults(tmp_path: Path) -> None:
    found = read_set(write(tmp_path, f'[theory]\nxc = "pbe"\n[labels]\nminutes = 2\n{SOURCE}frames = 3\n'))
    assert found.name == "set"
    assert found.folder == tmp_path
    assert found.theory == TheoryLevel("pbe", "def2-svp", 3)
    assert found.labels == LabelSettings(minutes=2.0)
    assert found.source == (Source("smiles", ("O",), frames=3),)
    assert found.split.kind == "train"


WRONG = {
    "colour = 1\n" + SOURCE: "unknown setting 'colour'",
    '[theory]\nfunctional = "pbe"\n' + SOURCE: "unknown setting theory.'functional'",
    "[theory]\ngrid_level = 12\n" + SOURCE: "grid_level is 0 to 9",
    '[theory]\ngrid_level = "3"\n' + SOURCE: "theory.grid_level takes int",
    "[labels]\nminutes = -1\n" + SOURCE: "minutes must be positive",
    "[labels]\nmemory = 4\n" + SOURCE: "in MB",
    "[labels]\ngradient = 0.5\n" + SOURCE: "gradient is 1e-9 to 1e-2",
    "": "the set is empty",
    "source = []\n": "the set is empty",
    "source = 3\n": "the set is empty",
    'theory = "pbe"\n' + SOURCE: r"write \[theory\]",
    '[[source]]\nkind = "smiles"\n': "needs smiles or files",
    '[[source]]\nkind = "xyz"\n': "needs files",
    '[[source]]\nkind = "qm9"\n': "needs indices, or a count",
    '[[source]]\nkind = "pdb"\nfiles = ["a"]\n': "known are smiles, xyz, sdf, ase, qm9",
    '[[source]]\nkind = "xyz"\nfiles = ["a"]\nunit = "nm"\n': "known are angstrom, bohr",
    '[[source]]\nkind = "xyz"\nfiles = ["a"]\nindices = [1]\n': "indices means nothing for kind 'xyz'",
    '[[source]]\nkind = "qm9"\nindices = ["1"]\n': "indices are integers",
    SOURCE + "frames = -1\n": "frames must be at least 0",
    SOURCE + 'ions = "both"\n': "known are protonate, deprotonate",
    SOURCE + "[split]\nval = 0.8\ntest = 0.3\n": "together less than 1",
    SOURCE + '[split]\nkind = "cross"\n': "split.kind 'cross' is unknown",
    SOURCE + '[split]\nkind = "size"\ntrain_atoms = 9\nval_atoms = 8\n': "must not exceed",
    "[theory\n": "not a TOML file",
    "source = [1]\n": r"write \[\[source\]\]",
    '[theory]\nxc = " "\n' + SOURCE: "must not be empty",
    '[[source]]\nkind = "qm9"\ncount = 3\nseed = -1\n': "seed must be at least 0",
    '[[source]]\nkind = "smiles"\nsmiles = "O"\n': "takes a list",
}


@pytest.mark.parametrize("text", WRONG, ids=lambda t: t.replace("\n", " ")[:40])
def test_what_is_wrong_is_named_with_the_file(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SetFileError, match=WRONG[text]) as error:
        read_set(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_in_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "set.toml"
    path.write_bytes('name = "é"\n'.encode("latin-1"))
    with pytest.raises(SetFileError, match="not a TOML file"):
        read_set(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SetFileError, match=r"nowhere\.toml: cannot be read"):
        read_set(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("theory", "message"),
    [
        (TheoryLevel("b3lip"), "'b3lip' is not a functional that PySCF can use"),
        (TheoryLevel("mgga_x_br89_explicit"), "is not a functional that PySCF can use"),
        (TheoryLevel(basis="def2-xvp"), "has no functions for C"),
        (TheoryLevel(basis="3-21g"), "has no functions for Fr"),
        (TheoryLevel(basis="sto-3g@2s"), "has no functions for"),
    ],
)
def test_an_impossible_level_of_theory_is_refused(theory: TheoryLevel, message: str) -> None:
    seeds = [Seed("methane", smiles="C"), Seed("salt", smiles="[F-].[Fr+]")]
    with pytest.raises(SetFileError, match=message):
        check_theory(theory, seeds)


def test_a_basis_with_a_core_potential_is_refused() -> None:
    with pytest.raises(SetFileError, match="effective core potential for I"):
        check_theory(TheoryLevel(), [Seed("iodomethane", smiles="CI")])


def test_a_possible_level_of_theory_passes() -> None:
    water = Structure("water", np.array([8, 1, 1]), np.array([[0.0, 0, 0], [0, 1.4, 1.1], [0, -1.4, 1.1]]))
    for theory in (TheoryLevel(), TheoryLevel("hf", "sto-3g"), TheoryLevel("wb97x", "6-31g*")):
        check_theory(theory, [Seed("water", structure=water), Seed("ethanol", smiles="CCO")])


def test_structures_that_no_calculation_can_start_from() -> None:
    apart = np.array([[0.0, 0, 0], [0, 0, 1.4]])
    for numbers, positions, charge, message in (
        ([1, 1], apart, 1, "1 electrons at charge 1"),
        ([1, 1], apart, 2, "0 electrons at charge 2"),
        ([1, 1], apart * 0.2, 0, "two atoms at 0.28 bohr; is the unit"),
        ([1, 1], apart * np.nan, 0, "NaN"),
        ([1, 1], apart[:1], 0, "for 2 atoms"),
        ([], np.zeros((0, 3)), 0, "no atoms"),
    ):
        with pytest.raises(MoleculeError, match=message):
            Structure("it", np.array(numbers, dtype=np.int64), positions, charge)


def test_a_label_row_refuses_what_is_no_packed_matrix() -> None:
    hydrogen = Structure("hydrogen", np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, 1.4]]))
    with pytest.raises(MoleculeError, match="not the shape"):
        LabelRow(hydrogen, np.zeros(5, dtype=np.float32), -1.0, 1e-6)
    with pytest.raises(MoleculeError, match="NaN"):
        LabelRow(hydrogen, np.full(6, np.nan, dtype=np.float32), -1.0, 1e-6)
