"""Studies: which trials there are, slices, scores and tables."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from label_helpers import SMALL, write_labels

from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.orbitals import ShellTable
from training.config import LossWeights, RunConfig, Schedule, read_config
from training.studies import trials
from training.studies.cost import parameters, step_memory, step_seconds
from training.studies.report import draw_curves
from training.studies.run import subset
from training.studies.tables import Outcome, arm_table, effects, fit_power_law, spread

ROOT = Path(__file__).parents[1]
TINY = ModelConfig(reference=ReferenceSettings(steps=1), channels=4, layers=1, invariants=6, trace_hidden=8, radial=6)
BASE = RunConfig(TINY, Schedule(steps=4, batch_size=2, warmup=2), LossWeights())
CONFIG = """
[model]
channels = 4
layers = 1
invariants = 6
trace_hidden = 8
radial = 6
[schedule]
batch_size = 2
"""


def test_the_ablation_has_eight_arms_that_differ_in_what_they_are_called() -> None:
    found = trials.ablation(BASE, seeds=2)
    assert len({t.key for t in found}) == len(found) == 16
    assert [t.seed for t in found] == [0] * 8 + [1] * 8  # the table is complete after each seed
    by_arm = {t.arm: t.config for t in found if t.seed == 0}
    assert set(by_arm) == {
        f"{part}, {loss}" for part in ("baseline", "+Trace", "+Grad", "+TraceGrad") for loss in ("ov", "plain")
    }
    for arm, config in by_arm.items():
        assert config.model.gradient == ("Grad" in arm)
        assert config.model.traces == ("Trace" in arm)
        assert (config.loss.trace > 0) == ("Trace" in arm)
        assert (config.loss.ov > 0) == (config.loss.mo > 0) == arm.endswith("ov")
        assert (config.loss.mse > 0) == arm.endswith("plain")


def test_studies_share_the_trials_they_have_in_common() -> None:
    base = dataclasses.replace(
        BASE, model=dataclasses.replace(TINY, reference=ReferenceSettings(steps=2)), loss=LossWeights(trace=0.2)
    )
    shared = {t.key for t in trials.ablation(base, 1) if t.arm == "+TraceGrad, ov"}
    assert shared == {t.key for t in trials.references(base, 1) if t.arm == "two steps"}
    assert shared == {t.key for t in trials.curves(base, 1, 800) if t.arm == "800 molecules"}


def test_backbones_differ_in_size_and_rate_only() -> None:
    """The running mean and the batch are the base's: those of a long run would handicap a short one."""
    published = read_config(ROOT / "training/configs/qhnet.toml")
    found = trials.backbones(BASE, published, seeds=1, minutes=2.0)
    kinds = [(t.config.model.backbone, t.config.model.channels, t.config.model.traces) for t in found]
    sizes = [("qhnet_so2", 4), ("qhnet", 4), ("qhnet", published.model.channels)]
    assert kinds == [(*size, tracegrad) for size in sizes for tracegrad in (False, True)]
    assert len({t.arm for t in found}) == len({t.key for t in found}) == 6
    for t in found:
        assert t.minutes == 2.0
        rate = published.schedule.learning_rate if t.config.model.channels == 128 else BASE.schedule.learning_rate
        assert t.config.schedule == dataclasses.replace(BASE.schedule, learning_rate=rate)
        assert (t.config.loss.trace > 0) == t.config.model.gradient == t.config.model.traces


def test_a_trial_by_time_warms_up_for_a_tenth_of_its_steps() -> None:
    long = dataclasses.replace(BASE, schedule=Schedule(steps=1000, warmup=100))
    assert trials.shortened(long, 40).schedule == Schedule(steps=40, warmup=4)
    assert trials.shortened(long, 5000).schedule == Schedule(steps=5000, warmup=100)


def test_memory_of_a_step_grows_with_the_model() -> None:
    large = dataclasses.replace(BASE, model=dataclasses.replace(TINY, channels=64, layers=3))
    small, more = step_memory(BASE), step_memory(large)
    assert 1e6 < small < more / 2


def test_a_key_does_not_depend_on_settings_at_their_defaults() -> None:
    """So that a new setting leaves the trials of older releases where they are."""
    assert trials.changed(RunConfig()) == {}
    assert trials.changed(BASE) == {
        "model.channels": 4,
        "model.layers": 1,
        "model.invariants": 6,
        "model.trace_hidden": 8,
        "model.radial": 6,
        "schedule.steps": 4,
        "schedule.batch_size": 2,
        "schedule.warmup": 2,
    }


def test_smaller_subsets_are_parts_of_larger_ones() -> None:
    data = list(range(20))
    small, large = subset(data, 5), subset(data, 12)  # type: ignore[arg-type]
    assert len(small) == 5
    assert set(small) < set(large) < set(subset(data, None))  # type: ignore[arg-type]


def test_power_law_is_found() -> None:
    n = np.array([50.0, 100.0, 200.0, 400.0])
    law = fit_power_law(n.tolist(), (3e-4 * (n / 400) ** -0.7).tolist())
    assert law.a == pytest.approx(3e-4)
    assert law.b == pytest.approx(0.7)
    assert law(np.array([800.0]))[0] == pytest.approx(3e-4 * 2**-0.7)


def test_spreads_and_effects() -> None:
    assert spread([1.0], ".1f") == "1.0"
    assert spread([1.0, 3.0], ".2f") == "2.00 ± 1.41"
    assert not spread([1.0, float("nan")], ".2f")
    low, high = Outcome(1e-4, 1e-4, 1e-4, 1e-4, 0.9, 1e-4, 0.6, 2e-4), Outcome(*[2e-4] * 4, 0.8, 4e-4, 0.7, 4e-4)
    by_arm = {"baseline, ov": [high, high], "+Grad, ov": [low, high]}
    assert "| +Grad, ov | 2 | 0.625 ± 0.530 | 0.750 ± 0.354 |" in effects(by_arm)
    table = arm_table(by_arm, {"+Grad, ov": ["7"]}, ["parameters"])
    assert table.splitlines()[-1].startswith("| +Grad, ov | 2 | 150 ± 71 |")
    assert table.splitlines()[-1].endswith("| 7 |")


def test_curves_are_drawn_of_what_was_measured(tmp_path: Path) -> None:
    def point(n: float, ratio: float) -> list[Outcome]:
        return [Outcome(*[1e-4] * 4, 0.9, 3e-4 * n**-0.5, ratio, 1e-4)]

    sizes = np.array([50.0, 100.0, 200.0])
    without = draw_curves(sizes, [point(n, float("nan")) for n in sizes], tmp_path / "ov.png")
    assert without == "ov error = 2.12e-05 (n / 200)^-0.500"
    both = draw_curves(sizes, [point(n, 0.8 * n**-0.1) for n in sizes], tmp_path / "both.png")
    assert both.startswith(f"{without}; cycles / minao's = ")
    assert (tmp_path / "both.png").stat().st_size > (tmp_path / "ov.png").stat().st_size


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labels(tmp_path_factory.mktemp("study") / "small.h5", SMALL, ["train", "train", "val", "val"])


def run_study(folder: Path, labels: Path, *options: str) -> str:
    """The command, in a folder of its own (the cache of references is relative to it)."""
    (folder / "tiny.toml").write_text(CONFIG)
    command = [sys.executable, "-m", "training.study", *options, "--labels", str(labels), "--out", "out"]
    done = subprocess.run(
        [*command, "--config", "tiny.toml", "--steps", "3"],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_study_in_slices(labels: Path, tmp_path: Path) -> None:
    """Stopped at once, it says what is missing; run again, it trains and scores all arms and writes the table."""
    options = ("references", "--seeds", "1", "--scf", "1")
    assert "0 of 9 trials are trained" in run_study(tmp_path, labels, *options, "--minutes", "0")
    run_study(tmp_path, labels, "references", "--seeds", "1", "--scf", "0")
    before = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    whole = run_study(tmp_path, labels, *options)  # now with cycles of one molecule
    assert "9 of 9 trials are trained" in whole
    after = (tmp_path / "out" / "scores.csv").read_text().splitlines()
    assert after[: len(before)] == before
    assert len(after) == len(before) + 6 + 9  # F_ref of six references and nine models, of one of two molecules
    assert len(list(tmp_path.glob("out/trials/*/model.pt"))) == 9
    table = (tmp_path / "out" / "references.md").read_text()
    assert table.strip() in whole
    for arm in ("hcore + SAP, centred", "F0, centred", "one step, G not input", "two steps", "three steps, mixed"):
        (line,) = [line for line in table.splitlines() if line.startswith(f"| {arm} |")]
        ov, before = float(line.split("|")[8]), float(line.split("|")[11])
        assert ov > 0
        assert before > 0


def test_costs_of_steps_are_side_by_side(labels: Path, tmp_path: Path) -> None:
    from training.dataset import load_split

    table = ShellTable.from_basis("def2-svp", (1, 8, 9))
    data, _ = load_split([str(labels)], "train", table, TINY, cache=tmp_path)
    large = dataclasses.replace(BASE, model=dataclasses.replace(TINY, channels=96, layers=3))
    torch.manual_seed(1)
    seconds = step_seconds([BASE, large], table, data, rounds=3)
    assert 0 < seconds[0] < seconds[1]
    assert parameters(BASE, table) < parameters(large, table)


def test_shipped_config_is_what_studies_start_from() -> None:
    assert read_config(ROOT / "training/configs/shipped.toml").model.reference.steps == 2
