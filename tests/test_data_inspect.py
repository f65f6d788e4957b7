"""Inspection of label files and manifests: what is wrong in a file is found, and nothing else."""

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray
from pyscf.data.nist import BOHR

from data import inspect, manifest
from data.errors import SetFileError
from data.labelfile import Attributes, write_labels
from data.labeltable import not_finite, read_table
from data.structure import LabelRow, Structure
from training.labels import LabelError

ATTRIBUTES = Attributes("b3lyp", "def2-svp", 3, "orbital gradient norm < 2e-06", "made up")
AOS = {1: 5, 6: 14, 8: 14}
ENERGY = {1: -0.6, 6: -38.0, 8: -75.2}
METHANE = ("C", ((0, 0, 0), (0.63, 0.63, 0.63), (-0.63, -0.63, 0.63), (-0.63, 0.63, -0.63), (0.63, -0.63, -0.63)))
WATER = ("O", ((0, 0, 0), (0.76, 0.59, 0), (-0.76, 0.59, 0)))


def row(name: str, kind: tuple[str, tuple[tuple[float, ...], ...]], seed: int, **changes: object) -> LabelRow:
    """A hydride of C or O with thermal noise, a Fock matrix of noise, and an energy near a sum over atoms."""
    rng = np.random.default_rng(seed)
    numbers = np.array([{"C": 6, "O": 8}[kind[0]]] + [1] * (len(kind[1]) - 1))
    positions = np.array(kind[1]) / BOHR + rng.normal(0, 0.03, (len(numbers), 3))
    nao = sum(AOS[z] for z in numbers.tolist())
    energy = sum(ENERGY[z] for z in numbers.tolist()) + rng.normal(0, 0.01)
    fock = rng.normal(size=nao * (nao + 1) // 2).astype(np.float32)
    structure = Structure(name, numbers, positions, parent=name.partition("_")[0], frame=int(name[-1]))
    facts = {k: v for k, v in changes.items() if k in {"energy", "gradient_norm", "fock"}}
    structure = dataclasses.replace(structure, **{k: v for k, v in changes.items() if k not in facts})
    return dataclasses.replace(LabelRow(structure, fock, energy, 1e-7), **facts)


def good_rows() -> list[tuple[LabelRow, str]]:
    return [
        (row(f"{name}_md{k}", kind, 10 * k + len(name)), split)
        for name, kind, split in (("methane", METHANE, "train"), ("water", WATER, "val"))
        for k in range(9)
    ]


def write(path: Path, rows: list[tuple[LabelRow, str]]) -> Path:
    write_labels(path, ATTRIBUTES, rows)
    return path


def failures(*paths: Path, gradient: float = 2e-6) -> dict[str, list[str]]:
    checks = inspect.run_checks(read_table(paths), gradient)
    return {f"{c.question} {c.note}".strip(): c.offenders for c in checks if c.offenders}


def test_a_good_file_passes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", good_rows())
    assert failures(path) == {}
    checks = inspect.run_checks(read_table([path]), 2e-6)
    text = inspect.summary(read_table([path]), checks)
    assert "18 structures of 2 molecules; b3lyp/def2-svp" in text
    assert "| atoms | 3 | 4 | 5 |" in text
    assert "| AOs | 24 | 29 | 34 |" in text
    assert "| H | 18 | 54 |" in text
    assert "| train | 9 | 1 | 8 | 0 |" in text
    assert text.count("* OK") == 11
    assert inspect.stated_gradient(ATTRIBUTES.conv) == 2e-6
    assert inspect.stated_gradient("not stated") is None


def pairs_by_every_rounding(rows: list[tuple[LabelRow, str]], path: Path) -> list[tuple[int, int]]:
    """Twins, the last row but one among them, found whether its distances are a last digit longer or shorter."""
    twin, split = rows[-2]
    found = []
    for factor in (1 - 1e-14, 1 + 1e-14):
        moved = dataclasses.replace(twin.structure, positions=twin.structure.positions * factor)
        table = read_table([write(path, [*rows[:-2], (dataclasses.replace(twin, structure=moved), split), rows[-1]])])
        found.append(inspect.same_geometries(table))
    assert found[0] == found[1]
    return found[0]


def test_every_check_finds_its_offender(tmp_path: Path) -> None:
    rows = good_rows()
    rows[0] = (row("methane_md0", METHANE, 0, gradient_norm=3e-6), "train")
    rows[3] = (row("methane_md3", METHANE, 3, energy=-41.0), "train")
    twin = rows[5][0].structure
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    twin = dataclasses.replace(twin, name="twin_md1", positions=twin.positions @ rotation + 1.0, parent="twin")
    rows.append((dataclasses.replace(rows[5][0], structure=twin), "val"))
    rows.append((row("water_md9", WATER, 99), "train"))
    assert pairs_by_every_rounding(rows, tmp_path / "b.h5") == [(5, 18)]
    found = failures(write(tmp_path / "a.h5", rows))
    assert found == {
        "orbital gradients below 2.0e-06 hartree": ["methane_md0 3.0e-06"],
        "no geometry twice": ["methane_md5 and twin_md1"],
        "no molecule in two splits by parent and QM9 index": ["water in train and val"],
        "no molecule in two splits by InChI": [
            "InChI=1S/CH4/h1H4 in train and val",
            "InChI=1S/H2O/h1H2 in train and val",
        ],
        "energies fit the elements to 0.30 hartree": found["energies fit the elements to 0.30 hartree"],
    }
    assert found["energies fit the elements to 0.30 hartree"][0].startswith("methane_md3 off by -0.59")


def test_broken_numbers_are_found(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", good_rows())
    with h5py.File(path, "r+") as file:
        offsets = file["fock_offsets"][:]
        file["fock"][offsets[2]] = np.nan  # first element
        file["fock"][offsets[12] - 1] = np.inf  # last element
        file["charge"][4] = 1
        file["energy"][5] = np.inf
        file["energy"][6] = np.nan
        file["gradient_norm"][7] = np.nan
        file["fock_offsets"][16] -= 1
    assert not_finite(read_table([path])) == [2, 11]
    found = failures(path)
    assert found["Fock matrices are finite"] == ["methane_md2", "water_md2"]
    assert found["energies are finite 1 rows have none"] == ["methane_md5"]
    assert found["as many Fock elements as def2-svp has"] == ["water_md6 has 299", "water_md7 has 301"]
    assert "9 electrons at charge 1" in found["closed shells, no atoms on top of each other"][0]
    assert "orbital gradients below 2.0e-06 hartree; 1 rows have none" not in found


def test_blocks_of_the_fock_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data.labeltable._BLOCK", 7)
    paths = [write(tmp_path / f"{k}.h5", good_rows()) for k in range(2)]
    with h5py.File(paths[1], "r+") as file:
        file["fock"][700] = np.nan
        file["fock"][701] = np.nan
    table = read_table(paths)
    assert not_finite(table) == [18 + 1]  # 595 elements each
    assert "no name twice" in {c.question for c in inspect.run_checks(table, None, with_inchi=False) if c.offenders}


def test_energies_are_fitted_as_by_hand(tmp_path: Path) -> None:
    table = read_table([write(tmp_path / "a.h5", good_rows())])
    residuals = inspect.energy_residuals(table)
    # two kinds of molecules: the fit is their two means
    for rows in (slice(0, 9), slice(9, 18)):
        assert residuals[rows] == pytest.approx(table.energy[rows] - table.energy[rows].mean(), abs=1e-9)
    unknown = dataclasses.replace(table, energy=np.full(len(table), np.nan))
    assert np.isnan(inspect.energy_residuals(unknown)).all()
    assert {c.question for c in inspect.run_checks(unknown, None) if c.offenders} == set()


def test_same_geometries_as_by_comparing_all_pairs(tmp_path: Path) -> None:
    rows = good_rows()
    for k, shift in enumerate((5e-4, 2e-3)):  # one bond longer by less, and by more, than what counts as the same
        structure = rows[k][0].structure
        positions = structure.positions.copy()
        positions[1] += shift * (positions[1] - positions[0]) / np.linalg.norm(positions[1] - positions[0])
        rows.append(
            (dataclasses.replace(rows[k][0], structure=structure.moved(positions, name=f"copy_md{k}")), "train")
        )
    table = read_table([write(tmp_path / "a.h5", rows)])
    assert inspect.same_geometries(table) == [(0, 18)]

    def distances(k: int) -> NDArray[np.float64]:
        x = table.positions[table.offsets[k] : table.offsets[k + 1]]
        return np.sort(np.linalg.norm(x[:, None] - x, axis=-1).ravel())

    slow = [
        (i, j)
        for i in range(len(table))
        for j in range(i)
        if table.n_atoms[i] == table.n_atoms[j] and np.abs(distances(i) - distances(j)).max() < 1e-3
    ]
    assert slow == [(18, 0)]


def test_older_files_without_parents(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", good_rows())
    with h5py.File(path, "r+") as file:
        for name in ("parent", "smiles", "seconds", "gdb_index", "charge"):
            del file[name]
        file["name"][0] = "000012_ionp1_md3"
    table = read_table([path])
    assert table.parent == ["000012"] + ["methane"] * 8 + ["water"] * 9
    assert set(table.gdb_index) == {-1}
    assert set(table.charge) == {0}


def test_levels_of_theory_are_not_mixed(tmp_path: Path) -> None:
    write_labels(tmp_path / "b.h5", dataclasses.replace(ATTRIBUTES, xc="pbe"), good_rows())
    with pytest.raises(LabelError, match="several levels of theory"):
        read_table([write(tmp_path / "a.h5", good_rows()), tmp_path / "b.h5"])


def run(main: Callable[..., int], capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit status, standard output, standard error) of a command."""
    status = main([str(a) for a in arguments])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_command_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.h5", good_rows())
    command = [sys.executable, "-m", "data.inspect", str(path), "-o", str(tmp_path / "out"), "--no-inchi"]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "out" / "summary.md").read_text() == done.stdout
    assert (tmp_path / "out" / "summary.png").read_bytes()[:4] == b"\x89PNG"


def test_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.h5", good_rows())
    status, out, _ = run(inspect.main, capsys, path, "--gradient", 1e-8, "--no-inchi")
    assert status == 1
    assert "methane_md7 1.0e-07, and 10 more" in out  # eight are named
    status, out, err = run(inspect.main, capsys, tmp_path / "none.h5")
    assert (status, out) == (2, "")
    assert "none.h5: not a readable HDF5 file" in err
    write_labels(path, ATTRIBUTES, [])
    assert "holds no labels" in run(inspect.main, capsys, path)[2]


@pytest.mark.parametrize("dataset", ["fock", "name"])
def test_damage_inside_a_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str) -> None:
    path = write(tmp_path / "a.h5", good_rows())
    with h5py.File(path) as file:
        chunk = file[dataset].id.get_chunk_info(0)
    with path.open("rb+") as raw:
        raw.seek(chunk.byte_offset + 4)  # of a name, its address in the file, not its length
        raw.write(b"\xff" * 12)
    status, out, err = run(inspect.main, capsys, path, "--no-inchi")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "a.h5: damaged inside, copy or make it again" in err
    if dataset == "name":
        assert run(manifest.main, capsys, path, "-o", tmp_path / "a.csv")[0] == 2


def test_an_unknown_basis_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_labels(tmp_path / "a.h5", dataclasses.replace(ATTRIBUTES, basis="foo"), good_rows())
    status, out, err = run(inspect.main, capsys, tmp_path / "a.h5", "--no-inchi")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "PySCF does not have the basis 'foo' of the labels" in err


def test_elements_and_splits_that_do_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.h5", [(r, "dev") for r, _ in good_rows()])
    status, out, err = run(inspect.main, capsys, path, "--no-inchi", "-o", tmp_path / "out")
    assert (status, err) == (1, "no picture: no structure is in any of train, val, test\n")
    assert (tmp_path / "out" / "summary.md").read_text() == out
    with h5py.File(path, "r+") as file:
        file["atomic_numbers"][0] = 200
    status, out, err = run(inspect.main, capsys, path, "--no-inchi")
    assert (status, out) == (2, "")
    assert "a.h5: atomic numbers that no element has" in err


def test_the_folder_is_checked_before_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.h5", good_rows())
    status, out, err = run(inspect.main, capsys, path, "-o", path)
    assert (status, out) == (2, "")
    assert "a.h5: not a folder that can be written to" in err
    assert len(read_table([path])) == 18


def test_splits_of_other_names_are_found_and_a_set_without_val_is_noted(tmp_path: Path) -> None:
    rows = [(r, "valid" if split == "val" else split) for r, split in good_rows()]
    found = failures(write(tmp_path / "a.h5", rows))
    assert found == {"splits are train, val or test no val molecule": ["9 rows in 'valid'"]}
    only = [(r, "train") for r, _ in good_rows()]
    checks = inspect.run_checks(read_table([write(tmp_path / "a.h5", only)]), None)
    assert "* OK: splits are train, val or test (no val molecule)" in [check.line() for check in checks]


def test_the_picture_of_a_file_without_energies(tmp_path: Path) -> None:
    from data.picture import draw

    table = read_table([write(tmp_path / "a.h5", good_rows()[:1])])
    nothing = np.full(1, np.nan)
    table = dataclasses.replace(table, gradient_norm=nothing, energy=nothing)
    draw(table, inspect.aos(table), inspect.energy_residuals(table), None, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 10_000


def test_manifest_and_its_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = write(tmp_path / "a.h5", good_rows()), tmp_path / "a.csv"
    assert run(manifest.main, capsys, path, "-o", out)[0] == 0
    check = partial(run, manifest.main, capsys, path, "--check", out)
    assert check() == (0, "18 structures, 0 differences\n", "")
    lines = manifest.read_manifest(out)
    assert lines == manifest.manifest(read_table([path]))
    changed = list(lines)
    changed[0] = dataclasses.replace(lines[0], energy=lines[0].energy + 2e-6)
    changed[1] = dataclasses.replace(lines[1], split="val", charge=1)
    changed[2] = dataclasses.replace(lines[2], energy=float("nan"))
    changed[3] = dataclasses.replace(lines[3], name="new")
    found = manifest.compare(changed, lines)
    assert [text.split(":")[0] for text in found] == [
        "methane_md0",
        "methane_md1",
        "methane_md1",
        "methane_md2",
        "methane_md3 is missing",
        "new is not in the manifest",
    ]
    assert manifest.compare(changed[:1], lines[:1], tolerance=3e-6) == []
    unknown = dataclasses.replace(lines[0], energy=float("nan"))
    assert manifest.compare([unknown], [unknown]) == []
    write(path, good_rows()[1:])
    assert check()[:2] == (1, "methane_md0 is missing\n17 structures, 1 differences\n")


def test_a_manifest_overwrites_no_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.h5", good_rows())
    (tmp_path / "link.h5").symlink_to(path)
    for out in (path, tmp_path / "link.h5"):
        status, _, err = run(manifest.main, capsys, path, "-o", out)
        assert status == 2
        assert "is one of the label files" in err
    status, _, err = run(manifest.main, capsys, path, "-o", tmp_path)
    assert (status, err.count("\n")) == (2, 1)
    assert len(read_table([path])) == 18


def test_what_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(SetFileError, match="no such file"):
        manifest.read_manifest(tmp_path / "none.csv")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(SetFileError, match="not a manifest"):
        manifest.read_manifest(tmp_path / "a.csv")


def test_the_shipped_manifest_has_no_leak() -> None:
    from data import splits

    lines = manifest.read_manifest(Path(__file__).parent.parent / "data" / "manifests" / "shipped.csv")
    assert len({line.name for line in lines}) == len(lines) == 1410
    assert [sum(line.split == s for line in lines) for s in ("train", "val", "test")] == [1356, 54, 0]
    official = splits.stable_id().names(splits.STABLE_SIZE)
    position = {int(g): k for k, g in enumerate(splits.stable_gdb_index())}
    from_qm9 = [line for line in lines if line.gdb_index > 0]
    assert all(official[position[line.gdb_index]] == line.split for line in from_qm9)
