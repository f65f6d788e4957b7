"""Scaling runs: what is measured, what is recorded, and what is refused; the labels themselves are made elsewhere."""

from __future__ import annotations

import math
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from data import scaling
from data.errors import SetFileError
from data.journal import Failure, Journal
from data.settings import SetFile, read_set
from data.sources import read_sources


def set_file(path: Path, name: str = "one", xc: str = "hf", basis: str = "sto-3g") -> Path:
    text = f'name = "{name}"\n[theory]\nxc = "{xc}"\nbasis = "{basis}"\n[[source]]\nkind = "smiles"\nsmiles = ["O"]\n'
    path.write_text(text)
    return path


def run(*arguments: object) -> int:
    return scaling.main([str(a) for a in arguments])


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, bool]]:
    """Runs that were asked for, none of which is made."""
    runs: list[tuple[str, int, bool]] = []

    def measure(it: SetFile, _: scaling.Recipes, workers: int) -> scaling.Row:
        runs.append((it.name, workers, it.labels.exact))
        return scaling.Row(it.name, workers, "exact" if it.labels.exact else "fast", 10 * workers, 0, 36.0)

    monkeypatch.setattr(scaling, "measure", measure)
    return runs


def test_sets_are_told_apart(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    measured: list[tuple[str, int, bool]],
) -> None:
    one, two = set_file(tmp_path / "1.toml"), set_file(tmp_path / "2.toml", "two")
    assert run(one, "-o", tmp_path / "out", "--workers", 1, 2, 1) == 0
    first = capsys.readouterr().out
    assert first.splitlines()[2:] == [
        "| 1 | fast | 10 | 0 | 1000 | 1.00 |",
        "| 2 | fast | 20 | 0 | 2000 | 2.00 |",
        "| 2 | exact | 20 | 0 | 2000 | 2.00 |",
    ]
    assert run(two, "-o", tmp_path / "out", "--workers", 3) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert run(one, "-o", tmp_path / "out") == 0
    assert capsys.readouterr().out == first
    assert measured == [("one", 1, False), ("one", 2, False), ("one", 2, True), ("two", 3, False), ("two", 3, True)]


@pytest.mark.parametrize(("theory", "message"), [({"xc": "b3lpy"}, "theory.xc"), ({"basis": "foo"}, "theory.basis")])
def test_the_theory_is_checked_first(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    measured: list[tuple[str, int, bool]],
    theory: dict[str, str],
    message: str,
) -> None:
    assert run(set_file(tmp_path / "1.toml", **theory), "-o", tmp_path / "out") == 2
    assert message in capsys.readouterr().err
    assert not measured
    assert not (tmp_path / "out").exists()


def test_a_run_without_labels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = SimpleNamespace(count=lambda: 1)
    monkeypatch.setattr(scaling, "connect", lambda *_: nullcontext(cluster))

    class Failing:
        def __init__(self, journal: Journal, *_: object) -> None:
            self.journal = journal

        def work(self) -> None:
            self.journal.failed(Failure("seed", "mol0001", "it burnt down"))

    monkeypatch.setattr("data.generate.Run", Failing)
    path = set_file(tmp_path / "1.toml")
    it = read_set(path)
    with pytest.raises(SetFileError, match=r"1 workers made no label, .*; mol0001: it burnt down"):
        scaling.measure(it, read_sources(it), 1)
    assert run(path, "-o", tmp_path / "out", "--workers", 1) == 2
    assert "it burnt down" in capsys.readouterr().err
    assert not (tmp_path / "out" / "scaling.csv").exists()


def test_ratios_to_a_run_without_labels() -> None:
    rows = [scaling.Row("one", 1, "fast", 0, 1, 1.0), scaling.Row("one", 2, "fast", 1, 0, 1.0)]
    assert scaling.table(rows).count(f"{math.nan:.2f}") == 2


@pytest.mark.parametrize("workers", ["0", "-1", "two"])
def test_workers_are_positive(tmp_path: Path, workers: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(set_file(tmp_path / "1.toml"), "-o", tmp_path / "out", "--workers", workers)


def test_a_file_of_other_columns_and_a_folder_that_is_none(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    measured: list[tuple[str, int, bool]],
) -> None:
    path = set_file(tmp_path / "1.toml")
    (tmp_path / "scaling.csv").write_text("workers,recipe,labels,failed,seconds\n1,fast,1,0,1.0\n")
    assert run(path, "-o", tmp_path) == 2
    assert "not a file of this command" in capsys.readouterr().err
    assert run(path, "-o", path) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not measured
