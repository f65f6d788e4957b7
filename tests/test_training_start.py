"""Fine-tuning, configs, and facts of a run, through the command line."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_helpers import (
    MODEL,
    MOLECULES,
    TABLE,
    THEORY,
    load,
    run_config,
    same_weights,
    write_labels,
)

from pyscf_tracegrad.checkpoint import load_checkpoint
from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.orbitals import ShellTable
from pyscf_tracegrad.pretrained import SHIPPED
from training.config import Hardware, LossWeights, RunConfig, Schedule, read_config, to_toml, tomllib
from training.labels import LabelError, Theory
from training.logs import read_log
from training.loop import Trainer, validate
from training.prepare import load_molecules
from training.start import Start, check_shells
from training.tensors import file_digest
from training.train import main

CONFIGS = Path(__file__).parents[1] / "training" / "configs"


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take half a second each."""
    monkeypatch.setattr("training.curves.draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def trained(workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file to start from."""
    folder = tmp_path_factory.mktemp("trained")
    run = Trainer(run_config(), TABLE, THEORY, load(workspace / "labels.h5", workspace), folder)
    run.run(None, {})
    return folder / "model.pt"


def test_fine_tuning_takes_over_weights_and_moments(workspace: Path, trained: Path, tmp_path: Path) -> None:
    data = load(workspace / "labels.h5", workspace)[:1]  # other moments than those of all four
    known = load_checkpoint(trained)
    config = replace(run_config(learning_rate=1e-4), start=Start(str(trained)))
    run = Trainer(config, TABLE, THEORY, data, tmp_path)
    assert same_weights(run.model, known.model)
    run.run(None, {"val": data}, every=4)
    moments = dict(run.model.named_buffers())
    assert moments
    assert all(torch.equal(value, moments[name]) for name, value in known.model.named_buffers())
    assert not same_weights(run.model, known.model)
    first = float(read_log(tmp_path / "log.csv")[0]["val_mae"])
    assert first == pytest.approx(validate(known.model, data).mae, rel=1e-6)
    again = Trainer(config, TABLE, THEORY, data, tmp_path, resume=True)
    assert same_weights(again.model, run.model)


def test_command_fine_tunes_and_measures_forgetting(
    workspace: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workspace)
    new = {"shifted": ("O 0 0 0; H 0.1 0 1.0; H 0.93 0.1 -0.2", "train"), "held out": (MOLECULES["water"][0], "val")}
    labels = write_labels(tmp_path / "new.h5", new, shift=0.01)
    config = tmp_path / "tune.toml"
    config.write_text(f'[schedule]\nsteps = 3\nbatch_size = 1\n[start]\nmodel = "{trained}"\n[model]\nchannels = 8\n')
    run = tmp_path / "run"
    old = workspace / "labels.h5"
    words = [str(config), "--labels", str(labels), "--out", str(run), "--device", "cpu"]
    assert main([*words, "--validation", f"old={old}"]) == 0
    rows = read_log(run / "log.csv")
    assert [row["step"] for row in rows] == ["0", "3"]
    assert {"val_mae", "old_mae", "old_ov", "old_mo"} <= set(rows[0])
    assert rows[0]["old_mae"] != rows[1]["old_mae"]
    facts = json.loads((run / "run.json").read_text())
    assert facts["labels"] == [{"file": "new.h5", "sha256": file_digest(labels)}]
    assert facts["validation"]["old"]["sha256"] == file_digest(old)
    assert facts["start"] == [{"file": "model.pt", "sha256": file_digest(trained)}]
    assert facts["versions"]["torch"] == torch.__version__
    assert facts["parameters"] == sum(p.numel() for p in load_checkpoint(trained).model.parameters())
    assert read_config(run / "config.toml") == read_config(config)


def test_settings_of_the_model_must_be_those_of_the_start(trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "tune.toml"
    path.write_text(f'[start]\nmodel = "{trained}"\n[model]\nlayers = 1\n[model.reference]\nsteps = 2\n')
    with pytest.raises(ValueError, match=r"tune\.toml: setting model\.reference\.steps = 2, but the model .* has 0"):
        read_config(path)
    path.write_text(f'[start]\nmodel = "{trained}"\n[model]\nlayers = 1\n')
    assert read_config(path).model == MODEL
    path.write_text('[start]\nmodel = "nowhere.pt"\n')
    with pytest.raises(ValueError, match=r"tune\.toml: nowhere\.pt: cannot be read"):
        read_config(path)
    other = replace(run_config(), model=replace(MODEL, channels=4), start=Start(str(trained)))
    with pytest.raises(ValueError, match=r"setting model\.channels = 4, but the model .* has 8"):
        Trainer(other, TABLE, THEORY, [], tmp_path)


def test_elements_that_the_model_does_not_know_are_named(workspace: Path, trained: Path, tmp_path: Path) -> None:
    molecules = {"ammonia": ("N 0 0 0; H 0 0.94 0.3; H 0.8 -0.47 0.3; H -0.8 -0.47 0.3", "train")}
    molecules |= {"silane": ("Si 0 0 0; H .85 .85 .85; H -.85 -.85 .85; H -.85 .85 -.85; H .85 -.85 -.85", "val")}
    path = str(write_labels(tmp_path / "new.h5", molecules))
    config = replace(run_config(), start=Start(str(trained)))
    with pytest.raises(LabelError, match=r"the labels hold N, Si, the model .*model\.pt' knows H, O, F only"):
        load_molecules(config, [path], {})
    with pytest.raises(LabelError, match=r"labels hold N, Si, the run \(validation set 'new'\) knows H, O, F only"):
        load_molecules(run_config(), [str(workspace / "labels.h5")], {"new": path})


def test_shells_that_the_model_does_not_know_are_named() -> None:
    check_shells([1, 8], "def2-svp", TABLE, "the model")
    with pytest.raises(LabelError, match=r"basis 'def2-tzvp' has a shell of H with l = 0 .* the model does not know"):
        check_shells([1, 8], "def2-tzvp", TABLE, "the model")


def test_another_level_of_theory_than_the_model_s_is_refused(trained: Path, tmp_path: Path) -> None:
    water = {"water": (MOLECULES["water"][0], "train")}
    config = replace(run_config(), start=Start(str(trained)))
    for theory, found in ((Theory("b3lyp", "def2-tzvp"), "basis 'def2-tzvp'"), (Theory("pbe", "def2-svp"), "xc 'pbe'")):
        path = str(write_labels(tmp_path / f"{theory.xc}-{theory.basis}.h5", water, theory))
        with pytest.raises(ValueError, match=rf"the labels are of {found}, the model .* of '"):
            load_molecules(config, [path], {})
    with pytest.raises(ValueError, match="the labels are of xc 'pbe'"):
        Trainer(config, TABLE, Theory("pbe", "def2-svp"), [], tmp_path)
    assert Trainer(config, TABLE, Theory("B3LYP", "def2svp"), [], tmp_path).step == 0  # PySCF reads both alike


def test_another_shell_table_than_the_model_s_is_refused(trained: Path, tmp_path: Path) -> None:
    config = replace(run_config(), start=Start(str(trained)))
    with pytest.raises(ValueError, match="takes its shell table"):
        Trainer(config, ShellTable.from_basis("def2-svp", (1, 8)), THEORY, [], tmp_path)


def test_shipped_model_is_a_start() -> None:
    config = read_config(CONFIGS / "finetune.toml")
    assert config.start.model == "shipped"
    assert config.model == load_checkpoint(SHIPPED).model.config
    assert config.schedule.learning_rate < read_config(CONFIGS / "shipped.toml").schedule.learning_rate / 2


def test_paper_s_settings() -> None:
    """TraceGrad, appendix; QHNet's recipe for what it leaves open."""
    config = read_config(CONFIGS / "paper.toml")
    s = config.schedule
    assert (s.learning_rate, s.final_rate, s.decay, s.warmup, s.batch_size) == (5e-4, 1e-7, "linear", 1000, 32)
    assert (s.betas, s.weight_decay, s.ema) == ((0.99, 0.999), 0.01, 0.0)
    assert config.loss == LossWeights(mae=1.0, mse=1.0, ov=0.0, mo=0.0, trace=0.2)
    assert (config.model.backbone, config.model.invariants, config.model.trace_hidden) == ("qhnet_so2", 1024, 1024)
    assert config.model.gradient
    assert config.model.traces


def test_config_written_is_the_config_read(tmp_path: Path) -> None:
    config = RunConfig(
        ModelConfig(cutoff=12.5, gradient=False, inputs="none"),
        Schedule(betas=(0.95, 0.999), decay="linear", final_rate=1e-7, learning_rate=1.25e-4),
        LossWeights(mse=2.0),
        Start(),
        Hardware(tf32=False),
    )
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert read_config(path) == config
    plain = json.loads(json.dumps(dataclasses.asdict(config)))  # lists for tuples, as TOML has them
    assert tomllib.loads(to_toml(config)) == plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[schedule]\ndecay = 'step'", "decay is 'cosine' or 'linear', not 'step'"),
        ("[schedule]\nfinal_rate = 1e-5", "final_rate is for decay = 'linear'"),
        ("[schedule]\nfinal_rate = 1\ndecay = 'linear'", "final_rate is between 0 and learning_rate"),
        ("[schedule]\nema = 1.0", "ema and the two betas are at least 0 and below 1"),
        ("[schedule]\nlearning_rate = -1.0", "learning_rate and clip must be positive"),
        ("[loss]\nov = -1.0", "weights of the loss cannot be negative"),
        ("[loss]\nmae = 0.0\nov = 0.0\nmo = 0.0", "a loss of traces alone trains no matrix"),
        ("[hardware]\ntf32 = 1", "setting hardware.tf32 takes bool, not 1"),
        ("[start]\nfile = 'a'", r"unknown setting start\.'file'; known are model"),
    ],
)
def test_settings_that_make_no_sense_are_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.toml: {message}"):
        read_config(path)
    with pytest.raises(ValueError, match=r"none\.toml: cannot be read"):
        read_config(tmp_path / "none.toml")
