"""Label files: what is written is read, and what is broken is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from pyscf import gto, lib

from training.labels import LabelError, LabelFile, Theory

NAMES = ("hydrogen", "hydroxide")


def molecules() -> list[gto.Mole]:
    return [
        gto.M(atom="H 0 0 0; H 0.1 0 0.73", basis="def2-svp", verbose=0),
        gto.M(atom="O 0 0 0; H 0.2 0 0.94", basis="def2-svp", charge=-1, verbose=0),
    ]


def fock_matrices() -> list[Any]:
    return [mol.RHF().get_fock(dm=mol.RHF().get_init_guess()) for mol in molecules()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """H2 and OH- with their first Hartree-Fock matrices: reading does not ask for converged ones."""
    mols, focks = molecules(), [lib.pack_tril(f).astype(np.float32) for f in fock_matrices()]
    file_path = tmp_path / "tiny.h5"
    with h5py.File(file_path, "w") as file:
        file.attrs.update({"format": "fock-labels", "version": 1, "xc": "hf", "basis": "def2-svp"})
        file["atomic_numbers"] = np.concatenate([m.atom_charges() for m in mols]).astype(np.uint8)
        file["positions"] = np.concatenate([m.atom_coords() for m in mols])
        file["atom_offsets"] = np.array([0, 2, 4])
        file["fock"] = np.concatenate(focks)
        file["fock_offsets"] = np.cumsum([0] + [len(f) for f in focks])
        file["energy"] = np.array([-1.1, -75.3])
        file["cycles_minao"] = np.array([7, -1], dtype=np.int16)
        file["name"] = list(NAMES)
        file["split"] = ["train", "val"]
        file["charge"] = np.array([0, -1], dtype=np.int8)
    return file_path


def replace_dataset(path: Path, name: str, values: Any) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = values


def test_what_is_written_is_read(path: Path) -> None:
    labels = LabelFile(path)
    assert labels.theory == Theory("hf", "def2-svp")
    assert len(labels) == 2
    assert [label.name for label in labels] == list(NAMES)
    assert [label.charge for label in labels] == [0, -1]
    assert [label.split for label in labels] == ["train", "val"]
    assert [label.cycles_minao for label in labels] == [7, -1]
    assert labels[1].energy == -75.3


def test_molecule_and_fock_come_back(path: Path) -> None:
    """Bohr, charge, AO order and the row-major triangle: the matrix belongs to the molecule that the label makes."""
    for label, mol, fock in zip(LabelFile(path), molecules(), fock_matrices(), strict=True):
        made = label.molecule("def2-svp")
        assert made.nelectron == mol.nelectron
        assert np.abs(made.atom_coords() - mol.atom_coords()).max() < 1e-14
        assert np.abs(label.full_fock() - fock).max() < 1e-5  # float32 of core elements of 20 hartree
        assert np.abs(made.RHF().get_fock(dm=made.RHF().get_init_guess()) - label.full_fock()).max() < 1e-5


def test_missing_charges_are_zero(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["charge"]
    labels = LabelFile(path)
    assert labels.charges.tolist() == [0, 0]
    assert labels[0].charge == 0
    with pytest.raises(LabelError, match="hydroxide: 9 electrons at charge 0; labels are of closed shells"):
        labels[1]


def test_nan_in_a_label_is_named(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["fock"][-1] = np.nan
    labels = LabelFile(path)
    assert labels[0].name == "hydrogen"
    with pytest.raises(LabelError, match="hydroxide: the label holds NaN"):
        labels[1]


@pytest.mark.parametrize(("attribute", "value"), [("version", 2), ("version", "one"), ("format", "something else")])
def test_another_format_or_version_is_refused(path: Path, attribute: str, value: Any) -> None:
    with h5py.File(path, "a") as file:
        file.attrs[attribute] = value
    with pytest.raises(LabelError, match="not a label file of format 'fock-labels', version 1"):
        LabelFile(path)


def test_empty_hdf5_file_is_refused(tmp_path: Path) -> None:
    h5py.File(tmp_path / "empty.h5", "w").close()
    with pytest.raises(LabelError, match="not a label file"):
        LabelFile(tmp_path / "empty.h5")


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all"])
def test_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "text.h5").write_bytes(content)
    with pytest.raises(LabelError, match=r"text\.h5: not a readable HDF5 file"):
        LabelFile(tmp_path / "text.h5")


def test_truncated_file_is_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(LabelError, match="not a readable HDF5 file"):
        LabelFile(path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="not a readable HDF5 file"):
        LabelFile(tmp_path / "nowhere.h5")


@pytest.mark.parametrize("name", ["fock", "atom_offsets", "split", "cycles_minao"])
def test_missing_dataset_is_named(path: Path, name: str) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
    with pytest.raises(LabelError, match=f"broken label file, dataset '{name}' is missing"):
        LabelFile(path)


def test_missing_attribute_is_named(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file.attrs["basis"]
    with pytest.raises(LabelError, match="broken label file, attribute 'basis' is missing"):
        LabelFile(path)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("name", ["hydrogen", "hydrogen"], "names are not unique"),
        ("atom_offsets", [0, 2], "offsets do not match 2 molecules"),
        ("fock_offsets", [0, 55, 100], "offsets do not match the number of positions or Fock elements"),
        ("positions", np.zeros((3, 3)), "offsets do not match the number of positions or Fock elements"),
    ],
)
def test_contradictions_are_refused(path: Path, name: str, values: Any, message: str) -> None:
    replace_dataset(path, name, values)
    with pytest.raises(LabelError, match=message):
        LabelFile(path)
