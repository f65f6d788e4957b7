"""The walk-through of data/README.md, command by command, as it stands there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from pyscf import gto

import pyscf_tracegrad
from training.labels import LabelFile

ROOT = Path(__file__).parents[1]


def commands() -> list[list[str]]:
    text = (ROOT / "data" / "README.md").read_text()
    section = text.split("## Walk-through")[1].split("## Set files")[0]
    block = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)[0]
    return [shlex.split(line) for line in block.splitlines()]


def test_the_walk_through_has_its_four_commands() -> None:
    modules = [command[2] for command in commands()]
    assert modules == ["data.generate", "data.inspect", "training.train", "training.evaluate"]


@pytest.mark.slow
def test_the_walk_through(tmp_path: Path) -> None:
    for folder in ("data", "training"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    outputs = []
    for command in commands():
        assert command[0] == "python"
        run = subprocess.run(
            [sys.executable, *command[1:]], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert run.returncode == 0, run.stderr
        outputs.append(run.stdout)
    labels = LabelFile(tmp_path / "runs/twenty.h5")
    assert sorted(labels.splits) == ["train"] * 16 + ["val"] * 4
    assert (tmp_path / "runs/twenty/summary.png").stat().st_size > 10_000
    table = [line.split("|") for line in outputs[-1].splitlines() if line.startswith("| neutral")]
    network, reference = (float(row[4]) for row in table[:2])  # the table of errors follows
    assert network < 0.6 * reference  # H MAE on molecules that it was not trained on
    model = pyscf_tracegrad.load_model(tmp_path / "runs/twenty/model.pt")
    mf = gto.M(atom="O 0 0 0.12; H 0 0.76 -0.47; H 0 -0.76 -0.47", basis="def2-svp", verbose=0).RKS(xc="b3lyp")
    _, report = pyscf_tracegrad.tracegrad_guess(mf, model=model, refine=False, report=True)
    assert report.route == "network"
