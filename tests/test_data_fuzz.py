"""What a stranger, or a bad disk, makes of the files that are read: one clear error of our own kind, or what was there.

Nothing is executed, no other file is read, and no memory is taken that the file could not fill. `-m slow` tries more.
"""

from __future__ import annotations

import io
import pickle
import sqlite3
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from data_helpers import hydrogen, row_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import JournalError, SetFileError
from data.journal import Journal
from data.labelfile import Attributes, write_labels
from data.labeltable import not_finite, read_table
from data.manifest import Line
from data.settings import Source, read_set
from data.sources import read_source, read_sources
from training.acceleration.targets import Targets
from training.files import read_arrays
from training.labels import LabelError, LabelFile
from training.rows import RowsError, append_rows, read_rows
from training.state import StateError, read_state

MOST = 64 << 20  # bytes that a reader may take for a file of some kB
THEORY = "hf/sto-3g"
XYZ = "3\ncharge=0\nO 0 0 0\nH 0 0.757 0.587\nH 0 -0.757 0.587\n3\n\nO 0 0 0\nH 0 0.76 0.58\nH 0 -0.757 0.587\n"
SDF = """water
     RDKit          3D

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.1170 O   0  0  0  0  0  0  0  0  0  0  0  0
    0.0000    0.7570   -0.4700 H   0  0  0  0  0  0  0  0  0  0  0  0
    0.0000   -0.7570   -0.4700 H   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  1  3  1  0
M  END
$$$$
"""
SMILES = "# two\nO water\nCCO ethanol\nC[NH3+] ion\n"
TOML = (Path(__file__).parents[1] / "data" / "sets" / "smoke.toml").read_text()


def examples(n: int) -> Callable[[Any], Any]:
    """So many, the same at every run."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=n, derandomize=True, deadline=None, database=None, suppress_health_check=quiet)


TOKENS = (b"\x00", b"\xff" * 8, b"-1", b"nan", b"1e400", b"999999999999", b"\0\0\0\0\1\0\0\0", b"[", b"\n", b"")


def damaged(content: bytes, seed: int) -> bytes:
    """Cut anywhere, bits turned, bytes replaced, put in, or taken out."""
    rng = np.random.default_rng(seed)
    at, way = int(rng.integers(len(content))), int(rng.integers(5))
    token = TOKENS[rng.integers(len(TOKENS))] or rng.bytes(int(rng.integers(1, 16)))
    if way == 0:
        return content[:at]
    if way == 1:
        found = bytearray(content)
        for place in rng.integers(len(content), size=int(rng.integers(1, 9))):
            found[place] ^= 1 << int(rng.integers(8))
        return bytes(found)
    taken = {2: len(token), 3: 0, 4: int(rng.integers(1, 64))}[way]
    return content[:at] + (b"" if way == 4 else token) + content[at + taken :]


@contextmanager
def bounded() -> Iterator[None]:
    """Fails where Python and NumPy take more than MOST."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def check(read: Callable[[], object], own: type[Exception]) -> None:
    """It reads, or raises its own error with a message of one line that says something."""
    said = "nothing was wrong"
    with bounded():
        try:
            read()
        except own as error:
            said = str(error)
    assert len(said) > 10
    assert "\n" not in said


def label_file(path: Path) -> Path:
    rows = [(row_of(hydrogen(f"h2_{k}", 1.4 + 0.1 * k)), "train" if k else "val") for k in range(3)]
    write_labels(path, Attributes("hf", "sto-3g", 3, "orbital gradient norm < 1e-06", "a test"), rows)
    return path


def read_all(path: Path) -> None:
    for label in LabelFile(path):
        label.full_fock()
    table = read_table([path])
    list(table.structures())
    not_finite(table)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a good file of each kind."""
    folder = tmp_path_factory.mktemp("good")
    found = {"labels": label_file(folder / "a.h5").read_bytes()}
    with Journal(folder / "a.journal", THEORY) as journal:
        journal.add_seeds([("h2", "made")])
        journal.prepared("h2", [hydrogen("h2_eq0", parent="h2")])
        journal.labelled(row_of(hydrogen("h2_eq0", parent="h2")))
    found["journal"] = (folder / "a.journal").read_bytes()
    buffer = io.BytesIO()
    np.savez(buffer, initial=np.ones(3), responses=np.ones((3, 3), dtype=np.float32), overlap=np.ones(3))
    found["arrays"] = buffer.getvalue()
    append_rows(folder / "a.csv", [Line("a", 1, 0, 0, "train", 2, -1.1), Line("b", 2, 0, 0, "val", 2, -1.2)])
    found["rows"] = (folder / "a.csv").read_bytes()
    buffer = io.BytesIO()
    torch.save(good_state(), buffer)
    found["state"] = buffer.getvalue()
    found |= {"xyz": XYZ.encode(), "sdf": SDF.encode(), "smiles": SMILES.encode(), "toml": TOML.encode()}
    for kind, content in found.items():
        (folder / kind).write_bytes(content)
    return folder


def good_state() -> dict[str, Any]:
    weights = {"w": torch.ones(3)}
    state = {"config": {}, "train": ["a"], "model": weights, "mean": weights, "optimizer": {}, "step": 3}
    return state | {"seconds": 1.0, "random": {"cpu": torch.get_rng_state()}}


def read_journal(path: Path) -> None:
    with Journal(path, THEORY) as journal:
        journal.add_seeds([("h2", "made")])
        journal.unprepared()
        for name, _ in [*journal.unlabelled(), ("h2_eq0", "")]:
            journal.label(name)
        journal.structures("h2")
        journal.failures({"h2"})
        journal.size()


def source_of(kind: str) -> Callable[[Path], object]:
    return lambda path: read_source(Source(kind=kind, files=(path.name,)), path.parent)  # type: ignore[arg-type]


READERS: dict[str, tuple[str, Callable[[Path], object], type[Exception]]] = {
    "labels": ("a.h5", read_all, LabelError),
    "journal": ("a.journal", read_journal, JournalError),
    "arrays": ("a.npz", read_arrays, ValueError),
    "rows": ("a.csv", lambda path: read_rows(path, Line), RowsError),
    "state": ("state.pt", lambda path: read_state(path.parent, torch.device("cpu")), StateError),
    "xyz": ("a.xyz", source_of("xyz"), SetFileError),
    "sdf": ("a.sdf", source_of("sdf"), SetFileError),
    "smiles": ("a.smi", source_of("smiles"), SetFileError),
    "toml": ("a.toml", lambda path: read_sources(read_set(path)), SetFileError),
}


def fuzz(kind: str, seed: int, good: Path, folder: Path) -> None:
    name, read, own = READERS[kind]
    (folder / name).write_bytes(damaged((good / kind).read_bytes(), seed))
    check(lambda: read(folder / name), own)


@pytest.mark.parametrize("kind", READERS)
def test_a_good_file_of_each_kind_is_read(kind: str, good: Path, tmp_path: Path) -> None:
    name, read, _ = READERS[kind]
    (tmp_path / name).write_bytes((good / kind).read_bytes())
    with bounded():
        read(tmp_path / name)


@pytest.mark.parametrize("kind", READERS)
@given(seed=st.integers(0, 2**32 - 1))
@examples(12)
def test_a_damaged_file_is_one_error_of_our_own(kind: str, good: Path, tmp_path: Path, seed: int) -> None:
    fuzz(kind, seed, good, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
@given(seed=st.integers(0, 2**32 - 1))
@examples(500)
def test_many_damaged_files_are_one_error_of_our_own(kind: str, good: Path, tmp_path: Path, seed: int) -> None:
    fuzz(kind, seed, good, tmp_path)


@pytest.mark.parametrize("kind", sorted(set(READERS) - {"rows"}))
def test_an_empty_file_is_named(kind: str, tmp_path: Path) -> None:
    """An empty table of rows has none; an empty journal is a new one."""
    name, read, own = READERS[kind]
    (tmp_path / name).write_bytes(b"")
    if kind == "journal":
        with Journal(tmp_path / name, THEORY) as journal:
            assert journal.unprepared() == []
    else:
        with pytest.raises(own):
            read(tmp_path / name)


def change(path: Path, name: str, **options: Any) -> None:
    with h5py.File(path, "a") as file:
        del file[name]
        file.create_dataset(name, **options)


LINKS = {
    "external": h5py.ExternalLink("other.h5", "/positions"),
    "soft": h5py.SoftLink("/elsewhere"),
    "soft to itself": h5py.SoftLink("/positions"),
}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize("name", ["positions", "parent", "charge", "name"])
def test_links_are_not_followed(kind: str, name: str, tmp_path: Path) -> None:
    path = label_file(tmp_path / "a.h5")
    label_file(tmp_path / "other.h5")
    with h5py.File(path, "a") as file:
        del file[name]
        file[name] = LINKS[kind]
    with pytest.raises(LabelError, match=f"a.h5: dataset '{name}' is a link to elsewhere, which is not followed"):
        read_all(path)


def test_numbers_of_another_file_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(range(48)) * 3)
    path = label_file(tmp_path / "a.h5")
    outside = [(str(tmp_path / "secret"), 0, 144)]
    change(path, "positions", shape=(6, 3), dtype="f8", external=outside)
    with pytest.raises(LabelError, match="dataset 'positions' has its numbers in another file, which is not read"):
        LabelFile(path)
    layout = h5py.VirtualLayout((6, 3), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "positions", (6, 3))
    with h5py.File(path, "a") as file:
        del file["positions"]
        file.create_virtual_dataset("positions", layout)
    with pytest.raises(LabelError, match="dataset 'positions' has its numbers in another file"):
        LabelFile(path)


@pytest.mark.parametrize("name", ["atom_offsets", "fock_offsets"])
@pytest.mark.parametrize("offsets", [[0, -2, 4, 6], [0, 4, 2, 6], [-2, 2, 4, 6], [0, 10**15, 4, 6], [2, 2, 4, 6]])
def test_offsets_that_do_not_ascend(name: str, offsets: list[int], tmp_path: Path) -> None:
    path = label_file(tmp_path / "a.h5")
    end = {"atom_offsets": 6, "fock_offsets": 9}[name]
    change(path, name, data=np.array([*offsets[:-1], end]))
    with pytest.raises(LabelError, match=f"a.h5: {name} do not ascend from 0"):
        LabelFile(path)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("positions", {"shape": (10**12, 3), "dtype": "f8", "chunks": (1000, 3)}, "claims 2.4e.13 bytes, of which 0"),
        ("fock", {"shape": (10**12,), "dtype": "f4", "chunks": (1000,)}, "claims 4.0e.12 bytes, of which 0"),
        ("name", {"shape": (10**12,), "dtype": h5py.string_dtype(), "chunks": (1000,)}, "claims 8.0e.12 bytes"),
        ("charge", {"shape": (10**12,), "dtype": "i1", "chunks": (1000,)}, "claims 1.0e.12 bytes"),
        ("gdb_index", {"shape": (10**12,), "dtype": "i4", "chunks": (1000,)}, "claims 4.0e.12 bytes"),
        ("positions", {"data": np.zeros((6, 2))}, r"has the shape \(6, 2\), not \(n, 3\)"),
        ("positions", {"data": np.array([["x"] * 3] * 6, dtype="S1")}, "holds .S1, not numbers"),
        ("atomic_numbers", {"data": np.ones(6)}, "holds float64, not whole numbers"),
        ("charge", {"data": [b"one"] * 3}, "holds object, not whole numbers"),
        ("name", {"data": np.arange(3)}, "holds int64, not text"),
        ("name", {"data": np.array([b"\xff", b"\xfe", b"a"])}, "damaged inside"),
        ("energy", {"data": np.ones(2)}, "does not match 3 molecules"),
        ("parent", {"data": [b"a"]}, "does not match 3 molecules"),
        ("split", {"data": np.ones((3, 2))}, "has the shape"),
        ("fock", {"data": 1.0}, r"has the shape \(\)"),
        ("fock", {"data": h5py.Empty("f4")}, "has the shape None"),
    ],
)
def test_what_a_dataset_claims_is_checked(name: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = label_file(tmp_path / "a.h5")
    change(path, name, **options)
    with bounded(), pytest.raises(LabelError, match=message):
        read_all(path)


@pytest.mark.parametrize(
    "value", [np.ones(7000), np.array(["hf", "pbe"], dtype=object), h5py.Empty("f4"), b"\xff\xfe", 1.5]
)
@pytest.mark.parametrize("name", ["format", "version", "xc", "conv"])
def test_attributes_of_another_kind(name: str, value: Any, tmp_path: Path) -> None:
    path = label_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file.attrs[name] = value
    check(lambda: read_all(path), LabelError)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("positions", np.nan, "h2_1: the label holds NaN"),
        ("positions", -np.inf, "h2_1: the label holds NaN"),
        ("positions", 1e300, "h2_1: atoms farther than"),
        ("atomic_numbers", 0, "h2_1: atomic numbers that no element has"),
        ("atomic_numbers", 200, "h2_1: atomic numbers that no element has"),
        ("atomic_numbers", 2, "h2_1: 3 electrons at charge 0"),
    ],
)
def test_impossible_molecules_are_named(name: str, value: float, message: str, tmp_path: Path) -> None:
    path = label_file(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        file[name][2] = value
    labels = LabelFile(path)
    assert labels[0].name == "h2_0"
    with pytest.raises(LabelError, match=message):
        labels[1]
    with pytest.raises(LabelError):
        read_all(path)


class Bomb:
    """What runs a command when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("kind", ["raw", "zip", "legacy"])
def test_a_state_that_would_run_something_is_refused(kind: str, tmp_path: Path) -> None:
    bomb = good_state() | {"config": Bomb(tmp_path / "ran")}
    if kind == "raw":
        (tmp_path / "state.pt").write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, tmp_path / "state.pt", _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(StateError, match="is damaged" if kind != "zip" else "cannot be read"):
        read_state(tmp_path, torch.device("cpu"))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("step", "3", "'step' is missing, or not int"),
        ("step", -1, "'step' is negative"),
        ("train", [1, 2], "'step' is negative, or 'train' not a list of names"),
        ("train", None, "'train' is missing"),
        ("model", {"w": torch.tensor([1.0, float("nan")])}, "model.w is not a tensor of finite numbers"),
        ("mean", {"w": 1.0}, "mean.w is not a tensor"),
        ("optimizer", [], "'optimizer' is missing, or not dict"),
        ("seconds", float("inf"), "'seconds' is not a time"),
        ("random", {"cpu": 3}, "'random' is not a state"),
    ],
)
def test_states_of_other_content_are_named(key: str, value: Any, message: str, tmp_path: Path) -> None:
    torch.save(good_state() | {key: value}, tmp_path / "state.pt")
    with pytest.raises(StateError, match=rf"state\.pt is not the state of a run \({message}"):
        read_state(tmp_path, torch.device("cpu"))
    torch.save([1, 2], tmp_path / "state.pt")
    with pytest.raises(StateError, match="it holds list"):
        read_state(tmp_path, torch.device("cpu"))


def test_a_state_that_unpacks_to_anything_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "state.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x00" * (1 << 24))
    with bounded(), pytest.raises(StateError, match="is damaged"):
        read_state(tmp_path, torch.device("cpu"))


def npy(shape: tuple[int, ...], dtype: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + content


@pytest.mark.parametrize(
    "content",
    [
        npy((10**12,), "<f8", b"\x00" * 24),
        npy((-3,), "<f8", b"\x00" * 24),
        npy((3,), "|O", pickle.dumps([1, 2, 3])),
        npy((2**40, 2**40), "<f8", b"\x00" * 24),
        b"\x93NUMPY\x09\x00",
        b"",
    ],
)
def test_arrays_that_claim_more_than_is_there(content: bytes, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("initial.npy", content)
    with bounded(), pytest.raises(ValueError, match="not a file of arrays, or damaged"):
        read_arrays(buffer.getvalue())
    targets = Targets(tmp_path)
    targets.write("water", np.eye(2))
    (file,) = targets.folder.iterdir()
    file.write_bytes(content)
    with bounded():
        assert targets.read("water") is None


@pytest.mark.parametrize(
    ("column", "value"),
    [("geometry", b"nonsense"), ("geometry", "text"), ("geometry", 3), ("label", b"PK\x03\x04"), ("label", 1.5)],
)
def test_a_damaged_entry_of_a_journal_is_named(column: str, value: Any, good: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    path.write_bytes((good / "journal").read_bytes())
    database = sqlite3.connect(path)
    with database:
        database.execute(f"UPDATE structure SET {column} = ?", (value,))  # noqa: S608
    database.close()
    with Journal(path, THEORY) as journal, pytest.raises(JournalError, match="what it has of h2_eq0 is damaged"):
        journal.label("h2_eq0")


@pytest.mark.parametrize("table", ["about", "seed", "structure"])
def test_a_database_of_other_tables_is_no_journal(table: str, tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    database = sqlite3.connect(path)
    with database:
        database.execute(f"CREATE TABLE {table} (x INTEGER)")
    database.close()
    with pytest.raises(JournalError, match="not a journal, or damaged"):
        read_journal(path)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("xyz", "1000000000\n\nH 0 0 0\n", "instead of a number of atoms"),
        ("xyz", "2\nProperties=species:S:1:pos:R:1000000000\nH 0 0 0\nH 0 0 0.74\n", "more columns than there are"),
        ("xyz", "2\n\nH 0 0 nan\nH 0 0 0.74\n", "NaN or infinite"),
        ("xyz", "2\n\nH 0 0 1e400\nH 0 0 0.74\n", "NaN or infinite"),
        ("xyz", "2\n\nH 0 0 1e200\nH 0 0 0.74\n", "farther than|no atom is within"),
        ("xyz", "2\ncharge=1e300\nH 0 0 0\nH 0 0 0.74\n", "charge|electrons"),
        ("smiles", "C" * 5000, "atoms, more than can be labelled"),
        ("smiles", "(" * 100_000, "a SMILES of 100000 characters"),
        ("smiles", "C\x00C", "cannot be read"),
        ("toml", "x = " + "[" * 100_000, "not a TOML file"),
        ("toml", '[[source]]\nkind = "xyz"\nfiles = ["a\\u0000b"]\n', "no such file"),
        ("toml", '[[source]]\nkind = "smiles"\nfiles = ["a\\u0000b"]\n', "cannot be read"),
        ("toml", '[[source]]\nkind = "smiles"\nfiles = ["/dev/zero"]\n', "not a file"),
        ("toml", '[[source]]\nsmiles = ["C"]\nframes = 1000000000000\n', "frames is at most"),
        ("toml", '[[source]]\nsmiles = ["C"]\ninterval = inf\n', "interval must be positive, not inf"),
        ("toml", '[[source]]\nsmiles = ["C"]\n[labels]\nminutes = nan\n', "minutes must be positive, not nan"),
        ("toml", '[[source]]\nsmiles = ["C"]\n[split]\nmixed = "yes"\n', "split.mixed takes bool"),
    ],
)
def test_what_a_set_claims_is_checked(kind: str, text: str, message: str, tmp_path: Path) -> None:
    name, read, _ = READERS[kind]
    (tmp_path / name).write_text(text)
    with bounded(), pytest.raises(SetFileError, match=message):
        read(tmp_path / name)
