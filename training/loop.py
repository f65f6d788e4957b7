"""The training loop: steps, validation, log, checkpoints that resume exactly."""

from __future__ import annotations

import dataclasses
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from tqdm import tqdm

from pyscf_tracegrad.checkpoint import Checkpoint
from pyscf_tracegrad.config import from_dict
from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.orbitals import ShellTable
from training.config import RunConfig, to_toml
from training.dataset import StepSampler, model_input
from training.distributed import batch_loss, current_world
from training.files import CONFIG, LOG, MODEL, STATE, replace_file
from training.hardware import matmul_precision, memory, termination
from training.labels import Theory
from training.loader import BatchLoader
from training.logs import RunLog, Window
from training.losses import errors
from training.schedule import RunningMean, learning_rate
from training.start import check_start
from training.state import (
    RunStopped,
    StateError,
    clear_partial,
    random_state,
    read_state,
    restore_random_state,
    write_state,
)
from training.statistics import fit_standardisation

__all__ = ["LOG", "MODEL", "STATE", "Averages", "RunStopped", "RunningMean", "Trainer", "learning_rate", "validate"]

# So many steps in a row without a finite gradient are no bad batches any more.
MAX_SKIPPED = 20


@dataclass(frozen=True)
class Averages:
    """Mean errors over molecules: mae (hartree), ov (1), mo (hartree)."""

    mae: float
    ov: float
    mo: float

    def __str__(self) -> str:
        return f"MAE {self.mae * 1e6:.0f} uEh, ov {self.ov:.2e}, mo {self.mo:.2e}"


class Trainer:
    """One run in one folder.

    `run` goes on from `step` until the schedule ends or the minutes are over; `save` writes the state, from which a new
    Trainer with `resume=True` continues as if nothing had happened, with the same or another number of processes.

    Where the config has a section [start], weights and standardisation are those of the model that it names. In a
    process group of torch every process makes one, with the same arguments, and each works on its share of every batch.
    Raises ValueError for arguments that do not fit each other, or the run that is to be resumed.
    """

    def __init__(
        self,
        config: RunConfig,
        table: ShellTable,
        theory: Theory,
        train: Sequence[Data],
        folder: Path,
        device: str | torch.device = "cpu",
        resume: bool = False,
    ) -> None:
        self.config, self.table, self.theory, self.folder = config, table, theory, folder
        self.train, self.device, self.world = list(train), torch.device(device), current_world()
        schedule = config.schedule
        self.world.check_batch(min(schedule.batch_size, len(self.train)))
        state = read_state(folder, self.device) if resume else None
        start = None if resume else check_start(config.start, config.model, table, theory)
        torch.manual_seed(schedule.seed)
        self.model = FockModel(config.model, table.degrees, len(table.elements))
        if start is not None:
            self.model.load_state_dict(start.model.state_dict())
        elif not resume and self.world.leads:
            fit_standardisation(self.model, self.train)
        self.model.to(self.device)
        self.world.broadcast(self.model)
        self.mean = RunningMean(self.model, schedule.ema, started=start is not None)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=0.0, betas=schedule.betas, weight_decay=schedule.weight_decay, fused=True
        )
        self.step, self.seconds = 0, 0.0
        self._serve_ions = start is not None and start.serve_ions
        self._saved: int | None = None
        self._skipped = 0
        if state is not None:
            self._restore(state)
        self._loss = batch_loss(self.model, config.loss, self.world, self.device)
        if self.world.leads:
            folder.mkdir(parents=True, exist_ok=True)
            clear_partial(folder)
            replace_file(folder / CONFIG, to_toml(config).encode())

    def _restore(self, state: dict[str, Any]) -> None:
        """Raises StateError for a state that is of another run, or does not fit itself."""
        try:
            before = from_dict(RunConfig, state["config"])
        except (TypeError, ValueError) as error:
            raise StateError(
                f"{self.folder}: its state was saved with settings that are not known here ({error})"
            ) from None
        if dataclasses.replace(before, hardware=self.config.hardware) != self.config:
            raise StateError(f"{self.folder} was started with other settings; give another --out or the same config")
        if state["train"] != [d.name for d in self.train]:
            raise StateError(f"{self.folder} was started with other training molecules; give the same --labels")
        try:
            self.model.load_state_dict(state["model"])
            self.mean.load_state_dict(state["mean"])
            self.optimizer.load_state_dict(state["optimizer"])
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise StateError(
                f"{self.folder}: its weights do not fit its settings ({reason}); start another run"
            ) from None
        self.step, self.seconds, self._saved = state["step"], state["seconds"], state["step"]
        self._serve_ions = state.get("serve_ions", False)
        if "random" in state:
            restore_random_state(state["random"], self.device)

    def save(self) -> None:
        """Write state and model atomically; a run killed while writing keeps the last good ones.

        Raises RunStopped where they cannot be written; the last good ones stay.
        """
        state = {
            "config": dataclasses.asdict(self.config),
            "train": [d.name for d in self.train],
            "model": self.model.state_dict(),
            "mean": self.mean.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
            "serve_ions": self._serve_ions,
            "random": random_state(self.device),
        }
        try:
            write_state(self.folder, state, self.checkpoint())
        except OSError as error:
            raise self._unwritable(error) from error
        self._saved = self.step

    def _kept(self) -> str:
        """What a run that stops here leaves behind."""
        if self._saved is None:
            return f"nothing was saved in {self.folder} before"
        return f"{self.folder} has the last good state and model, of step {self._saved}; go on with --resume"

    def _unwritable(self, error: OSError) -> RunStopped:
        reason = error.strerror or str(error)
        return RunStopped(f"{self.folder}: step {self.step} cannot be written ({reason}); make room: {self._kept()}")

    def checkpoint(self) -> Checkpoint:
        """The mean weights as a model that can be used."""
        with torch.random.fork_rng([]):  # the run's own random numbers stay where they are
            model = FockModel(self.config.model, self.table.degrees, len(self.table.elements))
        model.load_state_dict(self.mean.module.state_dict())
        facts = {"steps": str(self.step), "molecules": str(len(self.train))}  # no time: the same run, the same file
        return Checkpoint(model.eval(), self.table, self.theory.xc, self.theory.basis, self._serve_ions, metadata=facts)

    def run(self, minutes: float | None, validation: dict[str, list[Data]], every: int = 500) -> None:
        """Train; validate and save every so many steps and at the end. `validation`: named sets of molecules.

        They are validated before the first step as well. SIGTERM and Ctrl-C end the process after the step at hand,
        with a state that resumes exactly and status 143 or 130. Raises RunStopped where nothing can be written any
        more, and where the loss is not finite for MAX_SKIPPED steps in a row (single ones are skipped).
        """
        schedule, begin, before = self.config.schedule, time.perf_counter(), self.seconds
        sampler = StepSampler(len(self.train), schedule.batch_size, schedule.seed, self.step, schedule.steps)
        with ExitStack() as stack:
            log = stack.enter_context(closing(RunLog(self.folder, self.step))) if self.world.leads else None
            stack.enter_context(matmul_precision(self.device, self.config.hardware.tf32))
            asked = stack.enter_context(termination())
            batches = BatchLoader(self.train, self.world.shares(sampler), self.device)
            loader = stack.enter_context(closing(batches))
            bar = stack.enter_context(self._bar())
            if self.step == 0 and validation:
                self._report(log, Window(), 0.0, validation)
            window = Window(waited=loader.waited)
            for batch in loader:
                self._one_step(batch, window)
                self.step += 1
                self.seconds = before + time.perf_counter() - begin
                bar.update()
                over = minutes is not None and self.seconds - before > 60 * minutes
                over, terminated = self.world.any((over, bool(asked)), self.device)
                if terminated:
                    self._terminate(asked.signal or signal.SIGTERM)
                if self.step % every == 0 or self.step == schedule.steps or over:
                    self._report(log, window, window.wait_share(loader.waited), validation)
                    if self.world.leads:
                        self.save()
                    window = Window(waited=loader.waited)
                if over:
                    break
            self.world.wait()

    def _terminate(self, number: int) -> NoReturn:
        if self.world.leads:
            self.save()
            what = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            tqdm.write(f"stopped by {what}: {self.folder} has the state of step {self.step}; go on with --resume")
        sys.exit(128 + number)

    def _bar(self) -> Any:
        total = self.config.schedule.steps
        quiet = not self.world.leads
        return tqdm(total=total, initial=self.step, desc="training", unit="step", mininterval=10, disable=quiet)

    def _one_step(self, batch: Data, window: Window) -> None:
        """One update; adds (mae, ov, mo, trace) of the batch before it to the window."""
        rate = learning_rate(self.config.schedule, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss, found = self._loss(batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.schedule.clip)
        if torch.isfinite(norm):  # one broken batch must not end a run of hours
            self.optimizer.step()
            self.mean.update_parameters(self.model)
            window.figures.append(found)
            self._skipped = 0
            return
        self._skipped += 1
        if self._skipped == MAX_SKIPPED:
            raise RunStopped(
                f"the loss was not finite for {MAX_SKIPPED} steps in a row, up to step {self.step}; lower "
                f"learning_rate, or look for a broken label: {self._kept()}"
            )

    def _report(self, log: RunLog | None, window: Window, wait: float, validation: dict[str, list[Data]]) -> None:
        """A row of the log, with a validation. `log`: that of the first process, the others have none."""
        train: list[float] = self.world.mean(window.mean().to(self.device)).tolist()
        if log is None:
            return
        row: dict[str, float] = {"step": self.step, "seconds": round(self.seconds, 1)}
        row |= dict(zip(("train_mae", "train_ov", "train_mo", "train_trace"), train, strict=True))
        rate = learning_rate(self.config.schedule, self.step - 1) if self.step else 0.0
        row |= {"learning_rate": rate, "wait": round(wait, 4), "memory": round(memory(self.device), 3)}
        lines = [f"train {Averages(*train[:3])}"] if window.figures else []
        for name, data in validation.items():
            result = validate(self.mean.module, data, self.device)
            row |= {f"{name}_{key}": value for key, value in dataclasses.asdict(result).items()}
            lines.append(f"{name} {result}")
        try:
            log.write(row)
        except OSError as error:
            raise self._unwritable(error) from error
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
