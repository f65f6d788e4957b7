"""Labels become tensors once: files of tensors, and labels that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from training_helpers import MODEL, MOLECULES, TABLE, load, write_labels

from pyscf_tracegrad.orbitals import ShellTable
from training import dataset
from training.dataset import FockData, label_elements, load_split, make_data
from training.labels import LabelError, LabelFile, Theory
from training.references import cache_folder, cached_reference


@pytest.fixture
def folder(workspace: Path, tmp_path: Path) -> Path:
    """A folder with its own file of tensors, and the references of all."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "references").symlink_to(workspace / "runs" / "references")
    return tmp_path


def plain(path: Path, folder: Path) -> list[FockData]:
    """Training molecules, label by label."""
    labels = LabelFile(path)
    place = cache_folder(labels.theory, MODEL.reference, folder / "runs" / "references")
    return [
        make_data(
            label,
            cached_reference(label, "def2-svp", MODEL.reference, place).reference(MODEL.reference, label.nelec),
            TABLE,
            MODEL,
            "def2-svp",
        )
        for label in labels
        if label.split == "train"
    ]


def assert_same(a: list[FockData], b: list[FockData]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key, value in y.to_dict().items():
            assert torch.equal(x[key], value) if isinstance(value, torch.Tensor) else x[key] == value


def count_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []

    def counted(label: object, *rest: object) -> FockData:
        made.append(label.name)  # type: ignore[attr-defined]
        return make_data(label, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset, "make_data", counted)
    return made


def test_tensors_are_made_once_and_mapped(workspace: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workspace / "labels.h5"
    expected = plain(path, folder)
    made = count_made(monkeypatch)
    assert_same(load(path, folder), expected)
    assert len(made) == 4
    again = load(path, folder)
    assert len(made) == 4
    assert_same(again, expected)
    (file,) = (folder / "runs" / "tensors").iterdir()
    assert file.name.startswith("labels-train-")
    assert file.name.split("/")[-1] in Path("/proc/self/maps").read_text() or not Path("/proc").exists()
    assert_same(load_split([str(path)], "train", TABLE, MODEL, 2, folder / "runs" / "references")[0], expected[:2])
    assert len(made) == 4


def test_damaged_and_stale_files_are_made_again(workspace: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = workspace / "labels.h5"
    expected = load(path, folder)
    (file,) = (folder / "runs" / "tensors").iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    made = count_made(monkeypatch)
    for content in (whole[:-100], b"", bytes(flipped)):
        file.unlink()
        file.write_bytes(content)
        made.clear()
        assert_same(load(path, folder), expected)
        assert len(made) == 4
        assert file.read_bytes() == whole
    other = write_labels(folder / "labels.h5", shift=0.1)  # the same name and molecules, other matrices
    made.clear()
    found = load(other, folder)
    assert len(made) == 4
    assert not torch.equal(found[0].target_site, expected[0].target_site)
    stored = [f for f in (folder / "runs" / "tensors").iterdir() if f != file]
    assert len(stored) == 1
    stored[0].unlink()
    file.rename(stored[0])  # a file under the name of another
    assert_same(load(other, folder), found)


@pytest.mark.parametrize("what", ["split", "cutoff", "reference", "shells"])
def test_tensors_of_other_settings_are_apart(workspace: Path, folder: Path, what: str) -> None:
    path, cache = str(workspace / "labels.h5"), folder / "runs" / "references"
    load(workspace / "labels.h5", folder)
    split, table, model = "train", TABLE, MODEL
    if what == "split":
        split = "val"
    elif what == "cutoff":
        model = replace(MODEL, cutoff=2.0)
    elif what == "reference":
        model = replace(MODEL, reference=replace(MODEL.reference, steps=1))
    else:
        table = ShellTable.from_basis("def2-svp", (1, 6, 8, 9))
    found = load_split([path], split, table, model, cache=cache)[0]
    assert len(list((folder / "runs" / "tensors").iterdir())) == 2
    if what == "cutoff":
        assert found[0].edge_index.shape == (2, 2)  # O-H within 2 bohr, H-H not
    elif what == "reference":
        assert found[0].site.shape[1] == 2
    elif what == "shells":
        assert found[0].element.tolist() == [2, 0, 0]


def test_first_molecules_alone_leave_no_file(workspace: Path, folder: Path) -> None:
    """A part of a split is no split."""
    found, _ = load_split([str(workspace / "labels.h5")], "train", TABLE, MODEL, 3, folder / "runs" / "references")
    assert [d.name for d in found] == list(MOLECULES)[:3]
    assert not (folder / "runs" / "tensors").exists()


def test_run_goes_on_where_tensors_cannot_be_kept(
    workspace: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "runs" / "tensors").write_text("a file where the folder should be")
    assert len(load(workspace / "labels.h5", folder)) == 4
    assert "cannot be written, the labels will be converted again" in capsys.readouterr().err


def test_several_files_come_in_their_order(workspace: Path, folder: Path) -> None:
    second = write_labels(folder / "more.h5", {"a": (MOLECULES["water"][0], "train")})
    paths = [str(workspace / "labels.h5"), str(second)]
    found, _ = load_split(paths, "train", TABLE, MODEL, cache=folder / "runs" / "references")
    assert [d.name for d in found][3:] == ["bent water", "a"]
    assert label_elements(paths) == {1, 8, 9}


def test_nan_in_a_label_is_named_with_its_file(folder: Path) -> None:
    path = write_labels(folder / "broken.h5")
    with h5py.File(path, "a") as file:
        first = file["fock_offsets"][1]
        file["fock"][first + 3] = np.nan
    with pytest.raises(LabelError, match=r"broken\.h5: hydrogen fluoride: the label holds NaN"):
        load(path, folder)
    assert not (folder / "runs" / "tensors").exists()


def test_another_basis_than_the_first_file_s_is_refused(workspace: Path, folder: Path) -> None:
    second = write_labels(folder / "big.h5", {"a": (MOLECULES["water"][0], "train")}, Theory("b3lyp", "def2-tzvp"))
    with pytest.raises(ValueError, match=r"different levels of theory cannot be mixed: .*def2-svp.*def2-tzvp"):
        load_split([str(workspace / "labels.h5"), str(second)], "train", TABLE, MODEL, cache=folder / "cache")


def test_empty_split_is_named(workspace: Path, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"no molecule of split 'test' in .*labels\.h5"):
        load(workspace / "labels.h5", folder, "test")
