"""What is claimed of versions, and what is said of a PySCF that nobody has tried."""

from __future__ import annotations

import re
from pathlib import Path

import pyscf
import pytest
from pyscf import gto

from pyscf_tracegrad import versions

ROOT = Path(__file__).parent.parent


def pinned(name: str) -> dict[str, str]:
    """Package -> version, as far as every Python has the same."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and ";" not in line)


def numbers(version: str) -> tuple[int, ...]:
    """1.26 and 1.26.0 are one version."""
    found = [int(part) for part in version.split(".")]
    return tuple(found + [0] * (3 - len(found)))


def test_the_newest_pyscf_is_the_one_of_the_constraints() -> None:
    assert numbers(pinned("constraints.txt")["pyscf"])[:2] == versions.NEWEST_PYSCF


def test_the_oldest_versions_are_the_floors_of_pyproject() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    dependencies = text.partition("dependencies = [")[2].partition("\n]")[0]
    floors = dict(re.findall(r'^\s*"([\w-]+)>=([\d.]+)', dependencies, re.MULTILINE))
    assert set(floors) == {"numpy", "scipy", "pyscf", "torch", "threadpoolctl", "e3nn"}
    oldest = pinned("constraints-oldest.txt")
    assert {name: numbers(oldest[name]) for name in floors} == {name: numbers(v) for name, v in floors.items()}


@pytest.mark.parametrize(
    ("version", "newer"),
    [("2.9.0", False), ("2.14.0", False), ("2.14.7", False), ("2.15.0", True), ("3.0.dev1", True), ("unknown", False)],
)
def test_a_later_series_is_newer_than_tested(version: str, newer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "NEWEST_PYSCF", (2, 14))
    assert versions.newer_than_tested(version) == newer


@pytest.mark.parametrize("version", ["99.1.0", "2.9.0"])
def test_a_newer_pyscf_is_told_once(
    version: str, water: gto.Mole, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pyscf, "__version__", version)
    monkeypatch.setattr(versions, "_said", [])
    for verbose in (0, 3, 3):  # a silent object is told nothing, and takes the word from nobody
        mf = water.RHF()
        mf.verbose = verbose
        mf.get_init_guess(key="tracegrad", refine=1)
    said = "".join(capfd.readouterr())
    assert said.count("PySCF 99.1.0 is newer than 2.14") == (version == "99.1.0")
