"""Two processes train as one."""

from __future__ import annotations

import copy
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import multiprocessing
from training_helpers import TABLE, THEORY, run_config

from training import curves
from training.config import LossWeights, RunConfig, read_config, to_toml
from training.dataset import FockData, StepSampler
from training.distributed import World
from training.logs import read_log
from training.loop import Trainer
from training.train import main

WITHOUT_TRACES = LossWeights(trace=0.0)  # mu is that of each process's own share


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def train_in_group(rank: int, workspace: str, ports: list[int], commands: list[list[str]]) -> None:
    """One of two processes as `torchrun` starts them."""
    os.chdir(workspace)
    curves.draw_curves = lambda *_: None
    for port, command in zip(ports, commands, strict=True):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        assert main(command) == 0


def test_two_processes_give_the_weights_of_one(workspace: Path, data: list[FockData], tmp_path: Path) -> None:
    """Also where one process has begun the run and two end it. Validation, log and files are the first one's."""
    config: RunConfig = replace(run_config(steps=6), loss=WITHOUT_TRACES)
    (tmp_path / "config.toml").write_text(to_toml(config))
    config = read_config(tmp_path / "config.toml")
    whole = Trainer(config, TABLE, THEORY, data, tmp_path / "whole")
    start = copy.deepcopy(whole.model)
    whole.run(None, {"val": data}, every=3)
    Trainer(config, TABLE, THEORY, data, tmp_path / "changed").run(0.0, {"val": data})
    labels = str(workspace / "labels.h5")
    common = [str(tmp_path / "config.toml"), "--labels", labels, "--device", "cpu", "--every", "3"]
    commands = [
        [*common, "--out", str(tmp_path / "group")],
        [*common, "--out", str(tmp_path / "changed"), "--resume"],
    ]
    ports = [free_port(), free_port()]
    multiprocessing.spawn(train_in_group, (str(workspace), ports, commands), nprocs=2)
    for name in ("group", "changed"):
        other = Trainer(config, TABLE, THEORY, data, tmp_path / name, resume=True)
        assert other.step == 6
        differences = [
            (a - b).detach().abs() for a, b in zip(whole.mean.parameters(), other.mean.parameters(), strict=True)
        ]
        # a gradient of rounding errors alone becomes a step of AdamW, whatever its size: a few weights may differ more
        assert max(float(d.max()) for d in differences) < 1e-4
        assert float(torch.cat([d.reshape(-1) for d in differences]).mean()) < 1e-7
    moved = [(a - b).detach().abs().max() for a, b in zip(whole.model.parameters(), start.parameters(), strict=True)]
    assert float(torch.stack(moved).max()) > 5e-3
    one, two = (read_log(tmp_path / name / "log.csv") for name in ("whole", "group"))
    assert [row["step"] for row in two] == ["0", "3", "6"]
    for key in ("train_mae", "train_ov"):  # means over both shares
        assert float(two[1][key]) == pytest.approx(float(one[1][key]), rel=1e-4)


def test_batches_are_shared_out() -> None:
    sampler = StepSampler(10, 4, 0, 0, 9)
    shares = [list(World(rank, 2).shares(sampler)) for rank in (0, 1)]
    for whole, first, second in zip(sampler, *shares, strict=True):
        assert len(first) == len(second) == 2
        assert sorted(first + second) == sorted(whole)


def test_batches_that_cannot_be_shared_are_refused() -> None:
    World(1, 3).check_batch(6)
    with pytest.raises(ValueError, match="a batch of 4 molecules cannot be shared by 3 processes; make batch_size a"):
        World(1, 3).check_batch(4)
