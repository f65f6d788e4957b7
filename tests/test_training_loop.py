"""The loop: the arithmetic of a step, logs, batches that are bad, precision, batches ahead of time."""

from __future__ import annotations

import copy
import csv
import itertools
import math
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from training_helpers import TABLE, THEORY, load, run_config, same_weights, trainer

from pyscf_tracegrad.model import FockModel
from training.config import Hardware, LossWeights, RunConfig, Schedule
from training.dataset import FockData, StepSampler
from training.hardware import matmul_precision
from training.loader import BatchLoader
from training.logs import read_log
from training.loop import MAX_SKIPPED, RunStopped, Trainer
from training.losses import total_loss
from training.schedule import RunningMean, learning_rate
from training.statistics import fit_standardisation

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take half a second each; one test has them."""
    if "picture" not in request.node.name:
        monkeypatch.setattr("training.curves.draw_curves", lambda *_: None)


@pytest.fixture(scope="module")
def held_out(workspace: Path) -> list[FockData]:
    return load(workspace / "labels.h5", workspace, "val")


def plain_loop(config: RunConfig, data: list[FockData]) -> tuple[FockModel, FockModel]:
    """Weights and their running mean, by the loop as one would write it down first."""
    schedule = config.schedule
    torch.manual_seed(schedule.seed)
    model = FockModel(config.model, TABLE.degrees, len(TABLE.elements))
    fit_standardisation(model, data)
    mean = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=schedule.betas, weight_decay=schedule.weight_decay, fused=True
    )
    batches = DataLoader(
        data, batch_sampler=StepSampler(len(data), schedule.batch_size, schedule.seed, 0, schedule.steps)
    )
    for step, batch in enumerate(batches):
        cosine = 0.5 * (1.0 + math.cos(math.pi * step / schedule.steps))
        warm = min(1.0, (step + 1) / schedule.warmup)
        optimizer.param_groups[0]["lr"] = schedule.learning_rate * warm * (cosine + 1e-3)
        optimizer.zero_grad()
        total_loss(model, batch, config.loss)[0].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        optimizer.step()
        decay = min(schedule.ema, (1.0 + step) / (10.0 + step)) if step else 0.0
        with torch.no_grad():
            for average, weight in zip(mean.parameters(), model.parameters(), strict=True):
                average.lerp_(weight, 1.0 - decay)
    return model, mean


def test_run_is_the_plain_loop_bit_for_bit(data: list[FockData], tmp_path: Path) -> None:
    config = run_config(steps=9, clip=0.5)
    model, mean = plain_loop(config, data)
    run = trainer(config, data, tmp_path)
    before = copy.deepcopy(run.model)
    run.run(None, {"val": list(data)}, every=4)
    assert not same_weights(before, run.model)
    assert same_weights(model, run.model)
    assert same_weights(mean, run.mean.module)


def test_linear_decay_goes_from_the_rate_to_the_final_one() -> None:
    schedule = Schedule(steps=110, warmup=10, learning_rate=5e-4, decay="linear", final_rate=1e-7)
    rates = [learning_rate(schedule, s) for s in range(110)]
    assert rates[:10] == pytest.approx([5e-5 * (s + 1) for s in range(10)])
    assert rates[109] == pytest.approx(1e-7)
    steps = [a - b for a, b in itertools.pairwise(rates[9:])]
    assert steps == pytest.approx([(5e-4 - 1e-7) / 100] * 100)


def test_no_ema_is_the_weights_themselves() -> None:
    model = torch.nn.Linear(3, 2)
    mean = RunningMean(model, 0.0)
    for _ in range(3):
        with torch.no_grad():
            model.weight.add_(0.7)
        mean.update_parameters(model)
    assert same_weights(mean.module, model)


def test_running_mean_of_trained_weights_keeps_them_at_first() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(model.weight, 1.0)
    mean = RunningMean(model, 0.999, started=True)
    torch.nn.init.constant_(model.weight, 2.0)
    mean.update_parameters(model)
    assert mean.module.weight[0, 0].item() == pytest.approx(1.0 * 2 / 11 + 2.0 * 9 / 11)  # decay 2/11, not 0


def test_log_begins_before_the_first_step(data: list[FockData], held_out: list[FockData], tmp_path: Path) -> None:
    run = trainer(run_config(), data, tmp_path)
    run.run(None, {"val": held_out[:1], "other": held_out[1:]}, every=4)
    with (tmp_path / "log.csv").open() as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames is not None
    assert ",".join(reader.fieldnames) == (
        "step,seconds,train_mae,train_ov,train_mo,train_trace,learning_rate,wait,memory,"
        "val_mae,val_ov,val_mo,other_mae,other_ov,other_mo"
    )
    assert [row["step"] for row in rows] == ["0", "4", "8"]
    assert math.isnan(float(rows[0]["train_mae"]))
    assert float(rows[0]["val_ov"]) != float(rows[2]["val_ov"])
    assert float(rows[2]["learning_rate"]) == learning_rate(run.config.schedule, 7)
    assert 0.0 <= float(rows[1]["wait"]) <= 1.0
    assert 0.05 < float(rows[1]["memory"]) < 100.0


def test_log_goes_on_with_new_columns_and_without_rows_of_a_killed_run(data: list[FockData], tmp_path: Path) -> None:
    run = trainer(run_config(), data, tmp_path)
    run.run(0.0, {"val": data[:1]})
    with (tmp_path / "log.csv").open("a") as file:  # as if it had gone on to step 4, and been killed before the state
        file.write("4," + ",".join(["9.0"] * 11) + "\n5,0.3")
    again = trainer(run_config(), data, tmp_path, resume=True)
    again.run(None, {"val": data[:1], "old": data[1:2]}, every=4)
    rows = read_log(tmp_path / "log.csv")
    assert [row["step"] for row in rows] == ["0", "1", "4", "8"]
    assert float(rows[2]["train_mae"]) < 9.0
    assert [row["old_mae"] == "nan" for row in rows] == [True, True, False, False]


def test_picture_is_drawn_at_every_validation(data: list[FockData], tmp_path: Path) -> None:
    trainer(run_config(steps=2), data, tmp_path).run(None, {"val": data[:1]})
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_tensorboard_has_the_same_numbers(data: list[FockData], tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = trainer(run_config(), data, tmp_path)
    run.run(None, {"val": data[:1]}, every=4)
    accumulator = events.EventAccumulator(str(tmp_path / "tensorboard"))
    accumulator.Reload()
    scalars = accumulator.Scalars("val/ov")
    assert [s.step for s in scalars] == [0, 4, 8]
    logged = [float(row["val_ov"]) for row in read_log(tmp_path / "log.csv")]
    assert [s.value for s in scalars] == pytest.approx(logged, rel=1e-6)


def test_run_works_without_tensorboard_and_with_a_broken_picture(
    data: list[FockData], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys
    from types import ModuleType

    def broken(*_: object) -> None:
        raise RuntimeError("no ink")

    curves = ModuleType("training.curves")
    curves.draw_curves = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "training.curves", curves)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    run = trainer(run_config(), data, tmp_path)
    run.run(None, {"val": data[:1]}, every=4)
    assert run.step == 8
    told = capsys.readouterr().out
    assert told.count("the package tensorboard is not installed") == 1
    assert told.count("no ink") == 1


def broken_molecule(data: list[FockData]) -> FockData:
    found = data[0].clone()
    found.target_site = torch.full_like(found.target_site, torch.nan)
    return found


def test_a_broken_batch_is_skipped_and_many_end_the_run(data: list[FockData], tmp_path: Path) -> None:
    one = trainer(run_config(steps=4, batch_size=1), [data[0], data[1], data[2], data[3]], tmp_path / "one")
    one.train[2] = broken_molecule(data)
    one.run(None, {}, every=2)
    assert one.step == 4
    assert all(p.isfinite().all() for p in one.mean.module.parameters())
    many = trainer(run_config(steps=3 * MAX_SKIPPED, batch_size=1), data[:1], tmp_path / "many")
    many.run(0.0, {})  # one good step is saved
    many.train[0] = broken_molecule(data)
    with pytest.raises(RunStopped, match=rf"not finite for {MAX_SKIPPED} steps in a row.*of step 1; go on with"):
        many.run(None, {}, every=1000)
    assert many.step == MAX_SKIPPED


def test_precision_of_the_gpu_is_set_within_a_run_only() -> None:
    before = torch.get_float32_matmul_precision()
    seen: list[str] = []

    def fail() -> None:
        with matmul_precision(torch.device("cuda"), tf32=True):
            seen.append(torch.get_float32_matmul_precision())
            raise IndexError

    with pytest.raises(IndexError):
        fail()
    assert seen == ["high"]
    assert torch.get_float32_matmul_precision() == before
    with matmul_precision(CPU, tf32=True):
        assert torch.get_float32_matmul_precision() == before
    torch.set_float32_matmul_precision("high")
    try:
        with matmul_precision(torch.device("cuda"), tf32=False):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_tf32_gives_the_loss_of_float32(data: list[FockData], tmp_path: Path) -> None:
    """And a run on the GPU goes through, with its batches copied ahead of time."""
    config = replace(run_config(steps=30), hardware=Hardware(tf32=True))
    run = Trainer(config, TABLE, THEORY, data, tmp_path, "cuda")
    run.run(None, {"val": data[:1]}, every=10)
    batch = next(iter(DataLoader(data, batch_size=4))).to("cuda")
    losses = []
    for tf32 in (False, True):
        with matmul_precision(run.device, tf32), torch.no_grad():
            losses.append(total_loss(run.model, batch, LossWeights())[0].item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "batches"]


def test_loader_gives_the_batches_of_a_plain_one(data: list[FockData]) -> None:
    sampler = StepSampler(len(data), 3, 0, 0, 12)
    loader = BatchLoader(data, sampler, CPU, ahead=2)
    plain = DataLoader(data, batch_sampler=sampler)
    count = 0
    for ahead, batch in zip(loader, plain, strict=True):
        count += 1
        assert ahead.name == batch.name
        assert ahead.keys() == batch.keys()
        tensors = [key for key, value in batch.to_dict().items() if isinstance(value, torch.Tensor)]
        assert len(tensors) > 12
        assert all(torch.equal(ahead[key], batch[key]) for key in tensors)
    loader.close()
    assert count == 12
    assert not loader_threads()


def test_loader_ends_with_the_run_and_tells_what_went_wrong(data: list[FockData], tmp_path: Path) -> None:
    class Broken(list[Data]):
        def __getitem__(self, k: object) -> Data:
            raise OSError("cannot read molecule")

    loader = BatchLoader(Broken(data), [[0]], CPU)
    with pytest.raises(OSError, match="cannot read molecule"):
        next(iter(loader))
    loader.close()
    unread = BatchLoader(data, StepSampler(4, 2, 0, 0, 1000), CPU, ahead=1)  # full, and nobody takes from it
    assert loader_threads()
    unread.close()
    run = trainer(run_config(), data, tmp_path)
    run.train = Broken(data)
    with pytest.raises(OSError, match="cannot read molecule"):
        run.run(None, {})
    assert not loader_threads()
