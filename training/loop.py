"""The training loop: steps, running mean of the weights, log, checkpoints that resume exactly."""

from __future__ import annotations

import csv
import dataclasses
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from tqdm import tqdm

from pyscf_tracegrad.checkpoint import Checkpoint, save_checkpoint
from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.orbitals import ShellTable
from training.config import RunConfig, Schedule
from training.dataset import StepSampler, model_input
from training.labels import Theory
from training.losses import errors, total_loss
from training.statistics import fit_standardisation

STATE, MODEL, LOG = "state.pt", "model.pt", "log.csv"


@dataclass(frozen=True)
class Averages:
    """Mean errors over molecules: mae (hartree), ov (1), mo (hartree)."""

    mae: float
    ov: float
    mo: float

    def __str__(self) -> str:
        return f"MAE {self.mae * 1e6:.0f} uEh, ov {self.ov:.2e}, mo {self.mo:.2e}"


def learning_rate(schedule: Schedule, step: int) -> float:
    """Linear warm-up, then a cosine to 1e-3 of the rate at the last step."""
    warm = min(1.0, (step + 1) / max(1, schedule.warmup))
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / schedule.steps))
    return schedule.learning_rate * warm * (cosine + 1e-3)


class RunningMean(AveragedModel):
    """Exponential mean of the weights, with a shorter memory at the start."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        def average(mean: Any, current: Any, count: Any) -> None:
            n = float(count)
            torch._foreach_lerp_(mean, current, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

        super().__init__(model, multi_avg_fn=average)


class Trainer:
    """One run in one folder.

    `run` goes on from `step` until the schedule ends or the minutes are over; `save` writes the state, from which a new
    Trainer with `resume=True` continues as if nothing had happened.
    """

    def __init__(
        self,
        config: RunConfig,
        table: ShellTable,
        theory: Theory,
        train: Sequence[Data],
        folder: Path,
        device: str = "cpu",
        resume: bool = False,
    ) -> None:
        self.config, self.table, self.theory, self.folder = config, table, theory, folder
        self.train, self.device = list(train), torch.device(device)
        torch.manual_seed(config.schedule.seed)
        self.model = FockModel(config.model, table.degrees, len(table.elements))
        if not resume:
            fit_standardisation(self.model, self.train)
        self.model.to(self.device)
        self.mean = RunningMean(self.model, config.schedule.ema)
        schedule = config.schedule
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=schedule.betas, weight_decay=schedule.weight_decay, fused=True
        )
        self.step, self.seconds = 0, 0.0
        folder.mkdir(parents=True, exist_ok=True)
        if resume:
            self._restore()

    def _restore(self) -> None:
        state = torch.load(self.folder / STATE, map_location=self.device, weights_only=True)
        if state["config"] != dataclasses.asdict(self.config):
            raise ValueError(f"{self.folder} was started with other settings; give another --out or the same config")
        if state["train"] != [d.name for d in self.train]:
            raise ValueError(f"{self.folder} was started with other training molecules; give the same --labels")
        self.model.load_state_dict(state["model"])
        self.mean.load_state_dict(state["mean"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]

    def save(self) -> None:
        """Write state and model atomically; a run killed while writing keeps the last good ones."""
        state = {
            "config": dataclasses.asdict(self.config),
            "train": [d.name for d in self.train],
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        partial = self.folder / f".{STATE}.{os.getpid()}.tmp"
        torch.save(state, partial)
        partial.replace(self.folder / STATE)
        save_checkpoint(self.folder / MODEL, self.checkpoint())

    def checkpoint(self) -> Checkpoint:
        """The mean weights as a model that can be used."""
        model = FockModel(self.config.model, self.table.degrees, len(self.table.elements))
        model.load_state_dict(self.mean.module.state_dict())
        facts = {"steps": str(self.step), "molecules": str(len(self.train)), "hours": f"{self.seconds / 3600:.2f}"}
        return Checkpoint(model.eval(), self.table, self.theory.xc, self.theory.basis, metadata=facts)

    def run(self, minutes: float | None, validation: dict[str, list[Data]], every: int = 500) -> None:
        """Train; validate and save every so many steps and at the end. `validation`: named sets of molecules."""
        schedule, start = self.config.schedule, time.perf_counter()
        before = self.seconds
        sampler = StepSampler(len(self.train), schedule.batch_size, schedule.seed, self.step, schedule.steps)
        loader = DataLoader(self.train, batch_sampler=sampler)
        window: list[Tensor] = []
        with tqdm(total=schedule.steps, initial=self.step, desc="training", unit="step", mininterval=10) as bar:
            for batch in loader:
                window.append(self._one_step(batch.to(self.device)))
                self.step += 1
                self.seconds = before + time.perf_counter() - start
                bar.update()
                stop = minutes is not None and self.seconds - before > 60 * minutes
                if self.step % every == 0 or self.step == schedule.steps or stop:
                    self._report(torch.stack(window).mean(0).tolist(), validation)
                    window = []
                    self.save()
                if stop:
                    break

    def _one_step(self, batch: Data) -> Tensor:
        """One update; returns (mae, ov, mo, trace) of the batch before it."""
        rate = learning_rate(self.config.schedule, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss, found, traces = total_loss(self.model, batch, self.config.loss)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.schedule.clip)
        if torch.isfinite(norm):  # one broken batch must not end a run of hours
            self.optimizer.step()
            self.mean.update_parameters(self.model)
        return torch.stack([found.mae.mean(), found.ov.mean(), found.mo.mean(), traces]).detach()

    def _report(self, train: list[float], validation: dict[str, list[Data]]) -> None:
        row: dict[str, float] = {"step": self.step, "seconds": round(self.seconds, 1)}
        row |= dict(zip(("train_mae", "train_ov", "train_mo", "train_trace"), train, strict=True))
        lines = [f"train {Averages(*train[:3])}"]
        for name, data in validation.items():
            result = validate(self.mean.module, data, self.device)
            row |= {f"{name}_{key}": value for key, value in dataclasses.asdict(result).items()}
            lines.append(f"{name} {result}")
        path = self.folder / LOG
        fresh = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow(row)
        tqdm.write(f"step {self.step}: " + " | ".join(lines))


@torch.no_grad()
def validate(model: Any, data: Sequence[Data], device: torch.device | str = "cpu", batch_size: int = 4) -> Averages:
    """Mean errors of a model over molecules."""
    mae, ov, mo = [], [], []
    for batch in DataLoader(list(data), batch_size=batch_size):
        batch = batch.to(device)
        found = errors(model(model_input(batch)), batch)
        mae.append(found.mae)
        ov.append(found.ov)
        mo.append(found.mo)
    return Averages(*(torch.cat(values).mean().item() for values in (mae, ov, mo)))
