"""What is left of a run: a full disk, a killed process, a damaged state, and what goes on from there."""

from __future__ import annotations

import errno
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_helpers import run_config, same_weights, trainer

from pyscf_tracegrad.pretrained import load_model
from training import logs as logs_module
from training import state as state_module
from training.config import Hardware, RunConfig, to_toml
from training.dataset import FockData
from training.loop import RunStopped
from training.train import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take half a second each."""
    monkeypatch.setattr("training.curves.draw_curves", lambda *_: None)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Writing more than so many bytes into a file fails, as on a full disk. Python ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    names = ("state.pt", "model.pt", "model.pt.sha256")
    return {name: (folder / name).read_bytes() for name in names}


def partial_files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def test_full_disk_leaves_the_last_good_state(data: list[FockData], tmp_path: Path) -> None:
    run = trainer(run_config(), data, tmp_path)
    run.run(0.0, {})
    before = contents(tmp_path)
    run.run(0.0, {})
    saved = contents(tmp_path)
    assert saved != before
    again = trainer(run_config(), data, tmp_path, resume=True)
    with largest_file(len(saved["state.pt"]) // 2), pytest.raises(RunStopped) as caught:
        again.run(0.0, {})
    assert str(caught.value).startswith(f"{tmp_path}: step 3 cannot be written (File too large); make room: ")
    assert str(caught.value).endswith("has the last good state and model, of step 2; go on with --resume")
    assert contents(tmp_path) == saved
    assert not partial_files(tmp_path)
    assert trainer(run_config(), data, tmp_path, resume=True).step == 2
    assert load_model(tmp_path / "model.pt").checkpoint.metadata["steps"] == "2"


def test_log_that_cannot_be_written_is_told_alike(
    data: list[FockData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(run_config(), data, tmp_path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logs_module, "replace_file", full)
    with pytest.raises(RunStopped, match=r"step 1 cannot be written \(No space left on device\).*nothing was saved"):
        run.run(0.0, {})


def test_model_that_cannot_be_written_keeps_state_and_model_of_one_step(
    data: list[FockData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trainer(run_config(), data, tmp_path)
    run.run(0.0, {})
    before = contents(tmp_path)

    def half(path: Path, checkpoint: object) -> None:  # noqa: ARG001
        path.write_bytes(b"half a mod")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(state_module, "save_checkpoint", half)
    with pytest.raises(RunStopped, match="No space left on device"):
        run.run(0.0, {})
    assert contents(tmp_path) == before
    assert not partial_files(tmp_path)


def command(workspace: Path, config: RunConfig, out: Path, *more: str) -> list[str]:
    file = out.with_suffix(".toml")
    file.write_text(to_toml(config))
    return [str(file), "--labels", str(workspace / "labels.h5"), "--out", str(out), "--device", "cpu", *more]


def test_killed_run_goes_on_to_the_weights_of_an_uninterrupted_one(
    data: list[FockData], workspace: Path, tmp_path: Path
) -> None:
    config = run_config(steps=40)
    arguments = command(workspace, config, tmp_path / "killed", "--every", "3")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "training.train", *arguments]
    with (tmp_path / "output").open("w") as out:
        process = subprocess.Popen(words, cwd=workspace, env=environment, stdout=out, stderr=out)
        try:
            deadline = time.monotonic() + 500
            log = tmp_path / "killed" / "log.csv"
            while not log.exists() or log.read_text().count("\n") < 4:  # header, steps 0, 3, 6
                assert process.poll() is None, (tmp_path / "output").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL
    killed = trainer(config, data, tmp_path / "killed", resume=True)
    assert 3 <= killed.step < 40
    whole = trainer(config, data, tmp_path / "whole")
    for run in (killed, whole):
        run.run(None, {}, every=100)
    assert same_weights(whole.model, killed.model)
    assert same_weights(whole.mean, killed.mean)
    assert (tmp_path / "killed" / "model.pt").read_bytes() == (tmp_path / "whole" / "model.pt").read_bytes()
    assert (tmp_path / "killed" / "run.json").exists()


@pytest.mark.parametrize(
    ("number", "name", "status"), [(signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl-C", 130)]
)
def test_sigterm_and_ctrl_c_save_and_stop(
    number: int,
    name: str,
    status: int,
    data: list[FockData],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = trainer(run_config(), data, tmp_path / "whole")
    whole.run(None, {})
    before = signal.getsignal(number)
    run = trainer(run_config(), data, tmp_path / "run")
    original = run._one_step

    def one_step(*arguments: object) -> None:
        original(*arguments)  # type: ignore[arg-type]
        if run.step == 2:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(run, "_one_step", one_step)
    with pytest.raises(SystemExit) as caught:
        run.run(None, {}, every=100)
    assert caught.value.code == status
    assert f"stopped by {name}: {tmp_path / 'run'} has the state of step 3" in capsys.readouterr().out
    assert signal.getsignal(number) is before
    again = trainer(run_config(), data, tmp_path / "run", resume=True)
    again.run(None, {})
    assert same_weights(again.mean, whole.mean)


def test_random_state_goes_on(data: list[FockData], tmp_path: Path) -> None:
    run = trainer(run_config(), data, tmp_path)
    torch.rand(5)
    run.save()
    expected = torch.rand(3)
    trainer(run_config(), data, tmp_path, resume=True)
    assert torch.equal(torch.rand(3), expected)


def test_hardware_may_change_between_slices(data: list[FockData], tmp_path: Path) -> None:
    trainer(run_config(), data, tmp_path).save()
    again = trainer(replace(run_config(), hardware=Hardware(tf32=False)), data, tmp_path, resume=True)
    assert again.step == 0


def test_state_of_before_the_new_settings_goes_on(data: list[FockData], tmp_path: Path) -> None:
    """States of earlier releases lack sections and fields; they mean the defaults."""
    trainer(run_config(), data, tmp_path).save()
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    for name in ("start", "hardware"):
        del state["config"][name]
    for name in ("decay", "final_rate"):
        del state["config"]["schedule"][name]
    del state["random"], state["serve_ions"]
    torch.save(state, tmp_path / "state.pt")
    assert trainer(run_config(), data, tmp_path, resume=True).step == 0


def test_missing_and_damaged_states_are_named(data: list[FockData], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run to go on with \(state\.pt is missing\)"):
        trainer(run_config(), data, tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()
    trainer(run_config(), data, tmp_path).save()
    path = tmp_path / "state.pt"
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], b"", bytes(flipped)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"state\.pt is damaged; start again in another folder"):
            trainer(run_config(), data, tmp_path, resume=True)


def test_command_refuses_what_would_overwrite_or_mix_runs(
    workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(status: int, message: str) -> None:
        assert status == 2
        line = capsys.readouterr().err.splitlines()[-1]  # after progress bars
        assert re.match(f"error: .*{message}", line)

    monkeypatch.chdir(workspace)
    arguments = command(workspace, run_config(steps=2), tmp_path / "run")
    assert main(arguments) == 0
    refused(main(arguments), r"holds a run; go on with it \(--resume\)")
    changed = tmp_path / "labels.h5"
    changed.write_bytes((workspace / "labels.h5").read_bytes() + b" ")
    arguments[2] = str(changed)
    refused(main([*arguments, "--resume"]), r"the content of labels\.h5 has changed")
    refused(
        main([*command(workspace, run_config(), tmp_path / "new"), "--validation", "old.h5"]),
        r"--validation takes NAME=FILE",
    )
    refused(
        main([*command(workspace, run_config(), tmp_path / "new"), "--validation", "val=old.h5"]),
        r"the name 'val' is taken",
    )
    refused(
        main([*command(workspace, run_config(), tmp_path / "new"), "--validation", "old=none.h5"]),
        r"not a readable HDF5 file",
    )
