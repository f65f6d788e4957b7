"""A set from end to end: labels in the file, failures with reasons, and runs that are killed and go on."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from pyscf import lib

from data.journal import Journal
from data.run import structures_of
from data.settings import Source
from training.labels import LabelFile

ROOT = Path(__file__).parents[1]


def generate(folder: Path, *more: str, wait: bool = True, name: str = "set") -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "data.generate", str(folder / f"{name}.toml"), "-o", str(folder / f"{name}.h5")]
    process = subprocess.Popen(
        [*command, *more], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    if wait:
        process.output, process.errors = process.communicate()  # type: ignore[attr-defined]
    return process


def write_waters(folder: Path, n: int, theory: str = 'xc = "hf"\nbasis = "sto-3g"', more: str = "") -> None:
    """A set of n water molecules, all different, and how to label them."""
    frames = [f"3\n\nO 0 0 0\nH 0 {0.75 + 0.003 * k:.4f} 0.55\nH 0 -0.76 {0.58 + 0.002 * k:.4f}\n" for k in range(n)]
    (folder / "waters.xyz").write_text("".join(frames))
    (folder / "set.toml").write_text(f'[theory]\n{theory}\n[[source]]\nkind = "xyz"\nfiles = ["waters.xyz"]\n{more}\n')


def check_waters(folder: Path, n: int) -> None:
    """All n labels, each once, each the converged Fock matrix of its own geometry."""
    labels = LabelFile(folder / "set.h5")
    assert len(labels) == n
    assert len({label.positions.tobytes() for label in labels}) == n
    for label in labels:
        mol = label.molecule(labels.theory.basis)
        mf = (mol.RHF() if labels.theory.xc == "hf" else mol.RKS(xc=labels.theory.xc)).run(conv_tol_grad=1e-7)
        assert label.energy == pytest.approx(mf.e_tot, abs=1e-8)
        np.testing.assert_allclose(lib.unpack_tril(label.fock), mf.get_fock(), atol=2e-6)


def test_a_set_with_failures(tmp_path: Path) -> None:
    write_waters(tmp_path, 3, more='[split]\nkind = "random"\nval = 0.34')
    with (tmp_path / "set.toml").open("a") as file:
        file.write('[[source]]\nkind = "xyz"\nfiles = ["odd.xyz"]\n')
    # two fluorine anions at 3 angstrom: closed shells, converged; and a molecule that falls apart when relaxed
    (tmp_path / "odd.xyz").write_text("2\ncharge=-2\nF 0 0 0\nF 0 0 3.0\n")
    with (tmp_path / "set.toml").open("a") as file:
        file.write('[[source]]\nkind = "smiles"\nfiles = ["cage.smi"]\n')
    (tmp_path / "cage.smi").write_text("C1(C2)(C3)C23C1 impossible\n")
    process = generate(tmp_path, "--workers", "1")
    assert process.returncode == 0, process.errors  # type: ignore[attr-defined]
    labels = LabelFile(tmp_path / "set.h5")
    assert sorted(labels.splits) == ["train", "train", "train", "val"] or len(labels) in (4, 5)
    failed = tmp_path / "set.failed.csv"
    if len(labels) == 4:
        with failed.open() as file:
            (row,) = csv.DictReader(file)
        assert row["name"].startswith("impossible")
        assert row["reason"]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Worker processes of a run's local cluster."""
    try:
        children = psutil.Process(process.pid).children(recursive=True)
        return [c for c in children if "spawn_main" in " ".join(c.cmdline())]
    except psutil.NoSuchProcess:
        return []


def chaos(folder: Path, seconds: tuple[float, float], most: int) -> int:
    """Run the set with two workers and kill one of them at random again and again; returns how many were killed."""
    rng = np.random.default_rng(0)
    process = generate(folder, "--workers", "2", wait=False)
    killed = 0
    while process.poll() is None:
        time.sleep(rng.uniform(*seconds))
        workers = workers_of(process)
        if workers and killed < most:
            workers[rng.integers(len(workers))].kill()
            killed += 1
    output, errors = process.communicate()
    assert process.returncode == 0, output + errors
    return killed


def test_workers_may_be_killed(tmp_path: Path) -> None:
    write_waters(tmp_path, 12, 'xc = "b3lyp"\nbasis = "6-31g"')
    assert chaos(tmp_path, (1.0, 3.0), most=3) == 3
    assert len(LabelFile(tmp_path / "set.h5")) == 12
    assert not (tmp_path / "set.failed.csv").exists()


@pytest.mark.slow
def test_workers_are_killed_at_random_until_the_set_is_complete(tmp_path: Path) -> None:
    write_waters(tmp_path, 40, 'xc = "b3lyp"\nbasis = "sto-3g"')
    assert chaos(tmp_path, (0.5, 6.0), most=1000) > 5
    check_waters(tmp_path, 40)


@pytest.fixture
def killed(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A run that was killed after some labels, with those labels."""
    write_waters(tmp_path, 30)
    process = generate(tmp_path, "--workers", "2", wait=False)
    database = tmp_path / "set.journal"
    end = time.monotonic() + 60
    while time.monotonic() < end and not (database.exists() and database.stat().st_size > 60_000):
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    theory = "hf/sto-3g, grid level 3, orbital gradient below 2e-06"
    with Journal(database, theory) as journal:
        names = [s.name for k in range(30) for s in journal.structures(f"waters_{k + 1}")]
        rows = {name: journal.label(name) for name in names}
    return tmp_path, {name: row for name, row in rows.items() if row is not None}


def test_a_killed_run_goes_on_with_what_it_had(killed: tuple[Path, dict[str, Any]]) -> None:
    folder, before = killed
    assert 0 < len(before) < 30
    process = generate(folder, "--workers", "2")
    assert process.returncode == 0, process.errors  # type: ignore[attr-defined]
    check_waters(folder, 30)
    labels = LabelFile(folder / "set.h5")
    for name, row in before.items():
        np.testing.assert_array_equal(labels[labels.names.index(name)].fock, row.fock)  # not made twice


def test_the_number_of_structures_of_a_molecule() -> None:
    assert structures_of(Source(smiles=("O",))) == 1
    assert structures_of(Source(smiles=("O",), frames=2)) == 3
    assert structures_of(Source(smiles=("O",), frames=2, ions="protonate", sites=2)) == 9
    assert structures_of(Source(smiles=("O",), frames=1, ions="protonate", neutral=False)) == 2
