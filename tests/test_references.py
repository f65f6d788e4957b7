"""The cache of references: the same as computing them, for every strategy and number of steps."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from label_helpers import SMALL, write_labels

from pyscf_tracegrad.config import ReferenceSettings
from pyscf_tracegrad.reference import build_reference
from training.acceleration.targets import Targets
from training.files import file_name
from training.labels import LabelFile
from training.references import cache_folder, cached_reference


@pytest.mark.parametrize(("strategy", "steps"), [("minao", 0), ("minao", 1), ("minao", 2), ("sap", 0)])
def test_cached_is_computed(strategy: str, steps: int, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "one.h5", {"water": SMALL["water"]}, ["train"])
    labels = LabelFile(path)
    settings = ReferenceSettings(strategy, steps=steps)  # type: ignore[arg-type]
    folder = cache_folder(labels.theory, settings, tmp_path)
    expected = build_reference(labels[0].molecule("def2-svp"), settings)
    for _ in range(2):  # computed, then read
        found = cached_reference(labels[0], "def2-svp", settings, folder).reference(settings, labels[0].nelec)
        assert found.responses.shape == (steps, 24, 24)
        assert np.abs(found.fock - expected.fock).max() < 1e-6  # responses are kept in float32
        assert np.abs(found.responses - expected.responses).max(initial=0.0) < 1e-6
        assert np.abs(found.overlap - expected.overlap).max() < 1e-12
    assert len(list(folder.iterdir())) == 1


NAMES = [
    "../../escaped",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a/b",
    "a\x00b",
    "x" * 255,
    "x" * 256,
    "é" * 200,
    "水",
    "A",
    "a",
]
NAMES += ["a%2Fb", "a~b", "<script>alert(5)</script>", "\udcff", ".hidden", "-o", "a b", "a\nb", "CON"]


def test_a_plain_name_is_its_file_name() -> None:
    for name in ("000001_eq0", "water", "c-h.1+x", "mol0001_ionp0_md1"):
        assert file_name(name) == name


@given(first=st.text(max_size=40) | st.sampled_from(NAMES), second=st.text(max_size=40) | st.sampled_from(NAMES))
@settings(max_examples=30, derandomize=True, deadline=None, database=None)
def test_any_name_is_a_safe_file_name_of_its_own(first: str, second: str) -> None:
    found = [file_name(first), file_name(second)]
    for name in found:
        assert re.fullmatch(r"[A-Za-z0-9_.+%~-]{1,100}", name)
        assert not name.startswith(".")
    assert (found[0].lower() == found[1].lower()) == (first == second)


@pytest.mark.parametrize("name", NAMES)
def test_no_name_of_a_label_leaves_the_folder_of_the_cache(name: str, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "one.h5", {"hydrogen fluoride": SMALL["hydrogen fluoride"]}, ["train"])
    labels = LabelFile(path)
    label = dataclasses.replace(labels[0], name=name)
    settings = ReferenceSettings("sap", steps=0)
    folder = tmp_path / "cache" / "inner"
    first = cached_reference(label, "def2-svp", settings, folder)
    targets = Targets(folder)
    targets.write(name, np.eye(2))
    assert np.array_equal(targets.read(name), np.eye(2))  # type: ignore[arg-type]
    files = sorted(file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file())
    assert len(files) == 3
    assert [file.parts[:2] for file in files[:2]] == [("cache", "inner")] * 2
    assert np.array_equal(cached_reference(label, "def2-svp", settings, folder).initial, first.initial)


@pytest.mark.parametrize("damage", ["empty", "cut", "nan", "shape", "text", "objects"])
def test_a_damaged_reference_is_made_again(damage: str, tmp_path: Path) -> None:
    path = write_labels(tmp_path / "one.h5", {"hydrogen fluoride": SMALL["hydrogen fluoride"]}, ["train"])
    label, settings = LabelFile(path)[0], ReferenceSettings("sap", steps=0)
    good = cached_reference(label, "def2-svp", settings, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    arrays = {"initial": good.initial, "responses": good.responses, "overlap": good.overlap}
    if damage in ("empty", "cut"):
        file.write_bytes(file.read_bytes()[: 0 if damage == "empty" else 300])
    else:
        wrong = {"nan": good.initial * np.nan, "shape": good.initial[:-1], "text": np.array(["x"])}
        np.savez(file, **arrays | {"initial": wrong.get(damage, np.array([{}], dtype=object))})
    again = cached_reference(label, "def2-svp", settings, tmp_path / "cache")
    assert np.array_equal(again.initial, good.initial)
    assert np.array_equal(cached_reference(label, "def2-svp", settings, tmp_path / "cache").overlap, good.overlap)
