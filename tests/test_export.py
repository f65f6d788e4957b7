"""Shipping a model: file, checksum, card."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
from label_helpers import SMALL, write_labels
from network_helpers import TABLE

from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.pretrained import load_model
from training import evaluate, export
from training.config import LossWeights, RunConfig, Schedule
from training.dataset import load_split
from training.labels import Theory
from training.loop import Trainer

MODEL = ModelConfig(reference=ReferenceSettings(steps=1), channels=4, layers=1, invariants=6, trace_hidden=8, radial=6)


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labels(tmp_path_factory.mktemp("export") / "small.h5", SMALL, ["train", "train", "train", "val"])


@pytest.fixture
def run(labels: Path, tmp_path: Path) -> Path:
    data, _ = load_split([str(labels)], "train", TABLE, MODEL, cache=tmp_path / "cache")
    config = RunConfig(MODEL, Schedule(steps=2, batch_size=2), LossWeights())
    trainer = Trainer(config, TABLE, Theory("b3lyp", "def2-svp"), data, tmp_path / "run")
    trainer.run(None, {})
    return tmp_path / "run"


def command(module: object, *words: object) -> None:
    assert module.main([str(word) for word in words]) == 0  # type: ignore[attr-defined]


def test_export(labels: Path, run: Path, tmp_path: Path) -> None:
    """The running mean of the weights with its card; figures of the evaluation that lies in the run."""
    words = ("--labels", labels, "--model", run / "model.pt", "--routes", "network", "--scf", "none")
    command(evaluate, *words, "--out", run / "val.csv")
    about = tmp_path / "about.md"
    about.write_text("Two waters and hydrogen fluoride, CC0.\n")
    command(export, run, "-o", tmp_path / "weights", "--about", about)
    out = tmp_path / "weights" / "run.pt"  # named by its run, not by the shipped model
    shipped, trained = load_model(out).checkpoint, load_model(run / "model.pt").checkpoint
    for name, value in trained.model.state_dict().items():
        assert (shipped.model.state_dict()[name] == value).all()
    card = out.with_suffix(".md").read_text()
    assert hashlib.sha256(out.read_bytes()).hexdigest() in card
    assert "3 training molecules with elements H C N O F. Two waters and hydrogen fluoride, CC0." in card
    assert "| neutral | network | 1 |" in card
    assert "* channels: 4" in card
    assert "F_ref alone, refined" in card
    assert card.startswith("# Model card: run\n")
    assert "'damping': (0.4,)" in card  # the reference has one step
    assert re.search(r"^Run: 2 steps, 3 molecules, \d+\.\d\d hours\.", card, re.MULTILINE)
    assert "steps aside" not in card
    assert "the guess is made from F_ref there" in card


def test_a_card_without_figures_says_so(run: Path, tmp_path: Path) -> None:
    command(export, run, "-o", tmp_path / "mine.pt", "--serve-ions")
    assert load_model(tmp_path / "mine.pt").checkpoint.serve_ions
    card = (tmp_path / "mine.md").read_text()
    assert "Not evaluated." in card
    assert "was not told" in card
