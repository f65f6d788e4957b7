"""A set from end to end: labels in the file, failures with reasons, and runs that are killed and go on."""

from __future__ import annotations

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import dask
import numpy as np
import psutil
import pytest
from distributed import wait
from distributed.scheduler import KilledWorker
from pyscf import lib

from data import cluster
from data.cluster import Flow, connect, memory_limit
from data.generate import main, recipe_text
from data.journal import Journal
from data.run import structures_of
from data.settings import Source
from data.structure import LabelRow, Seed
from training.labels import LabelFile

ROOT = Path(__file__).parents[1]
PATIENCE = 400  # seconds; a process that hangs is given up then, a slow one on a busy machine is not
THEORY = "hf/sto-3g, grid level 3, orbital gradient below 1e-06"


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
    write_waters(tmp_path, 3, more='[split]\nkind = "random"\nval = 0.34\nmixed = true\n')
    with (tmp_path / "set.toml").open("a") as file:
        # nothing in neon takes a proton
        file.write('[[source]]\nkind = "xyz"\nfiles = ["neon.xyz"]\nions = "protonate"\nneutral = false\n')
    (tmp_path / "neon.xyz").write_text("1\n\nNe 0 0 0\n")
    process = generate(tmp_path, "--workers", "1")
    assert process.returncode == 0, process.errors  # type: ignore[attr-defined]
    labels = LabelFile(tmp_path / "set.h5")
    assert sorted(labels.splits) == ["train", "train", "val"]
    with (tmp_path / "set.failed.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["kind"], row["name"]) == ("seed", "neon")
    assert row["reason"].startswith("neon: no atom to protonate")
    assert row["reason"].removeprefix("neon: ") in process.output  # type: ignore[attr-defined]


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
    assert 1 <= chaos(tmp_path, (1.0, 3.0), most=3) <= 3  # a fast machine is done before the third
    assert len(LabelFile(tmp_path / "set.h5")) == 12
    assert not (tmp_path / "set.failed.csv").exists()


@pytest.mark.slow
def test_workers_are_killed_at_random_until_the_set_is_complete(tmp_path: Path) -> None:
    write_waters(tmp_path, 120, 'xc = "b3lyp"\nbasis = "sto-3g"')
    assert chaos(tmp_path, (0.5, 4.0), most=1000) > 5
    check_waters(tmp_path, 120)


def wait_for_labels(folder: Path) -> None:
    """Until a run has entered some labels into its journal."""
    database = folder / "set.journal"
    end = time.monotonic() + PATIENCE
    while not (database.exists() and database.stat().st_size > 60_000):
        assert time.monotonic() < end
        time.sleep(0.05)


def journal_rows(folder: Path) -> dict[str, LabelRow]:
    """Labels in the journal of a set of water molecules that no run has open."""
    with Journal(folder / "set.journal", THEORY) as journal:
        names = [s.name for k in range(30) for s in journal.structures(f"waters_{k + 1}")]
        rows = {name: journal.label(name) for name in names}
    return {name: row for name, row in rows.items() if row is not None}


def test_a_killed_run_goes_on_with_what_it_had(tmp_path: Path) -> None:
    write_waters(tmp_path, 30)
    run = generate(tmp_path, "--workers", "2", wait=False)
    wait_for_labels(tmp_path)
    run.kill()
    run.communicate()
    before = journal_rows(tmp_path)
    assert 0 < len(before) < 30
    process = generate(tmp_path, "--workers", "2")
    assert process.returncode == 0, process.errors  # type: ignore[attr-defined]
    check_waters(tmp_path, 30)
    labels = LabelFile(tmp_path / "set.h5")
    for name, row in before.items():
        np.testing.assert_array_equal(labels[labels.names.index(name)].fock, row.fock)  # not made twice


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    write_waters(tmp_path, 30)
    command = (
        f"ulimit -f 60; exec {sys.executable} -m data.generate {tmp_path}/set.toml -o {tmp_path}/set.h5 --workers 1"
    )
    full = subprocess.run(["/bin/bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert full.returncode == 2
    last = full.stderr.strip().splitlines()[-1]
    assert re.search(r"error: .*could not be written.*those before are safe\. Make room and run the same command", last)
    kept = journal_rows(tmp_path)
    assert 0 < len(kept) < 30
    process = generate(tmp_path, "--workers", "1")
    assert process.returncode == 0, process.errors  # type: ignore[attr-defined]
    check_waters(tmp_path, 30)


def test_a_disk_that_is_full_at_the_end_keeps_the_old_label_file(tmp_path: Path) -> None:
    write_waters(tmp_path, 2)
    assert generate(tmp_path, "--workers", "1").returncode == 0
    before = (tmp_path / "set.h5").read_bytes()
    command = f"ulimit -f 8; exec {sys.executable} -m data.generate {tmp_path}/set.toml -o {tmp_path}/set.h5 --export"
    full = subprocess.run(["/bin/bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert full.returncode == 2
    assert re.search(r"error: .*no room for the 0 MB of a label file", full.stderr)
    assert (tmp_path / "set.h5").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.h5", "set.journal", "set.toml", "waters.xyz"]


@pytest.fixture
def scheduler() -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """Address of a Dask scheduler that stands by itself, and its process and that of its worker."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    commands = (
        [*dask, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"],
        [*dask, "worker", address, "--nthreads", "1", "--no-dashboard"],
    )
    processes = [subprocess.Popen(command, **quiet) for command in commands]  # type: ignore[call-overload]
    yield address, processes
    for process in processes:
        process.terminate()
    for process in processes:
        process.communicate(timeout=PATIENCE)


def test_a_killed_scheduler_loses_nothing(tmp_path: Path, scheduler: tuple[str, list[subprocess.Popen[bytes]]]) -> None:
    write_waters(tmp_path, 30)
    address, (process, _) = scheduler
    run = generate(tmp_path, "--scheduler", address, wait=False)
    wait_for_labels(tmp_path)
    process.kill()
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 2
    assert "error: the scheduler is gone" in errors
    assert "Traceback" not in errors
    assert 0 < len(journal_rows(tmp_path)) < 30
    again = generate(tmp_path, "--workers", "1")
    assert again.returncode == 0, again.errors  # type: ignore[attr-defined]
    check_waters(tmp_path, 30)


def test_no_scheduler_at_the_address(tmp_path: Path) -> None:
    write_waters(tmp_path, 1)
    process = generate(tmp_path, "--scheduler", "nowhere")
    assert process.returncode == 2
    assert "no Dask scheduler answers at 'nowhere'" in process.errors  # type: ignore[attr-defined]


def test_an_interrupted_run_says_how_to_go_on(tmp_path: Path) -> None:
    write_waters(tmp_path, 30)
    run = generate(tmp_path, "--workers", "1", wait=False)
    wait_for_labels(tmp_path)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130
    assert errors.strip().endswith("stopped; results so far are kept, run the same command to go on")
    exported = generate(tmp_path, "--export")
    assert exported.returncode == 0, exported.errors  # type: ignore[attr-defined]
    assert len(LabelFile(tmp_path / "set.h5")) == len(journal_rows(tmp_path))


def test_the_number_of_structures_of_a_molecule() -> None:
    assert structures_of(Source(smiles=("O",))) == 1
    assert structures_of(Source(smiles=("O",), frames=2)) == 3
    assert structures_of(Source(smiles=("O",), frames=2, ions="protonate", sites=2)) == 9
    assert structures_of(Source(smiles=("O",), frames=1, ions="protonate", neutral=False)) == 2


def command_line(*arguments: str) -> int:
    """The command in this process, where no run is started."""
    return main([str(a) for a in arguments])


def test_what_a_run_leaves_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A label file is not replaced by an empty one, nor is a journal made for nothing."""
    write_waters(tmp_path, 1)
    out = tmp_path / "set.h5"
    out.write_bytes(b"labels")
    assert command_line(tmp_path / "set.toml", "-o", out, "--export") == 2
    assert "there is nothing to export: no " in capsys.readouterr().err
    for path in (tmp_path, tmp_path / "set", tmp_path / "set.journal", "."):
        assert command_line(tmp_path / "set.toml", "-o", path) == 2
        assert "-o is a label file, NAME.h5, not" in capsys.readouterr().err
    for wrong in (["--workers", "0"], ["--threads", "-1"], ["--export", "--retry-failed"]):
        with pytest.raises(SystemExit):
            command_line(tmp_path / "set.toml", "-o", out, *wrong)
    assert out.read_bytes() == b"labels"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set.h5", "set.toml", "waters.xyz"]


def test_a_run_without_any_label_fails_and_writes_none(tmp_path: Path) -> None:
    (tmp_path / "neon.xyz").write_text("1\n\nNe 0 0 0\n")
    source = '[[source]]\nkind = "xyz"\nfiles = ["neon.xyz"]\nions = "protonate"\nneutral = false\n'
    (tmp_path / "set.toml").write_text(f'[theory]\nxc = "hf"\nbasis = "sto-3g"\n{source}')
    process = generate(tmp_path, "--workers", "1")
    assert process.returncode == 1
    assert "0 labels; 1 failed" in process.output  # type: ignore[attr-defined]
    assert not (tmp_path / "set.h5").exists()


def test_only_what_changes_a_structure_makes_it_another_one() -> None:
    seed = Seed("water", smiles="O")
    plain = recipe_text(Source(smiles=("O",)), seed)
    for same in ({"interval": 5.0}, {"sites": 3}, {"count": 1}, {"max_atoms": 9}, {"smiles": ("O", "N")}):
        assert recipe_text(Source(**{"smiles": ("O",), **same}), seed) == plain
    for other in ({"seed": 1}, {"frames": 1}, {"relax": True}, {"ions": "protonate"}):
        assert recipe_text(Source(**{"smiles": ("O",), **other}), seed) != plain
    assert recipe_text(Source(smiles=("O",), frames=1), seed) != recipe_text(
        Source(smiles=("O",), frames=1, interval=5.0), seed
    )


def hog(_: int) -> None:
    blocks = []
    for _ in range(100):
        blocks.append(np.ones(2_500_000))  # 20 MB
        time.sleep(0.02)


def test_the_memory_of_a_worker_is_bounded() -> None:
    assert memory_limit(500) == 1500
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), connect(None, 1, 1, 500) as workers:
        future = workers.client.submit(hog, 0)
        with pytest.raises(KilledWorker):
            future.result(timeout=PATIENCE)


def test_a_result_that_is_lost_with_its_worker_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_FETCH_SECONDS", 1)
    tasks = [7]
    with connect(None, 1, 1, 500) as workers:
        flow: Flow[int] = Flow(
            workers,
            lambda: tasks.pop() if tasks else None,
            lambda client, n: client.submit(abs, -n, pure=False),
        )
        flow.fill()
        wait(list(flow._flying), timeout=PATIENCE)
        (process,) = [c for c in psutil.Process().children(recursive=True) if "spawn_main" in " ".join(c.cmdline())]
        process.suspend()  # it has the result and does not answer
        try:
            assert flow.finished() == []
            assert flow.flying == [7]
        finally:
            process.kill()
        end = time.monotonic() + PATIENCE
        while not (over := flow.finished()) and time.monotonic() < end:
            workers.tend()
    ((task, ended),) = over
    assert (task, ended.status, ended.result()) == (7, "finished", 7)
    assert flow.flying == []


def test_what_ended_is_told_as_it_was() -> None:
    def future(status: str, raised: Exception) -> SimpleNamespace:
        return SimpleNamespace(status=status, result=Mock(side_effect=raised), exception=lambda: raised)

    failed = cluster._ended(future("error", TimeoutError("the task's own")))
    assert failed is not None
    assert (failed.status, str(failed.exception())) == ("error", "the task's own")
    cancelled = cluster._ended(future("cancelled", CancelledError()))
    assert cancelled is not None
    assert cancelled.status == "cancelled"
    assert cluster._ended(future("pending", TimeoutError())) is None
    with pytest.raises(OSError, match="no scheduler"):
        cluster._ended(future("finished", OSError("no scheduler")))
