"""What a training step costs: CPU seconds, side by side."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader

from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.orbitals import ShellTable
from training.config import RunConfig
from training.dataset import StepSampler
from training.losses import total_loss

_FIRST = 2  # steps that are not counted: kernels are chosen, memory is taken


class Stepper:
    """A model with random weights that makes training steps and tells their CPU seconds."""

    def __init__(self, config: RunConfig, table: ShellTable) -> None:
        torch.manual_seed(0)
        self.config = config
        self.model = FockModel(config.model, table.degrees, len(table.elements))
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)

    def step(self, batch: Data) -> float:
        """One step: forward, backward, update."""
        start = time.process_time()
        self.optimizer.zero_grad(set_to_none=True)
        total_loss(self.model, batch, self.config.loss)[0].backward()
        self.optimizer.step()
        return time.process_time() - start


def batches(data: Sequence[Data], batch_size: int, n: int) -> list[Data]:
    """The first n batches of a run on these molecules."""
    return list(DataLoader(list(data), batch_sampler=StepSampler(len(data), batch_size, 0, 0, n)))


def step_seconds(configs: Sequence[RunConfig], table: ShellTable, data: Sequence[Data], rounds: int = 5) -> list[float]:
    """CPU seconds of a step of each config: median over the same batches, one step of each config after the other."""
    steppers = [Stepper(config, table) for config in configs]
    times = [
        [stepper.step(batch) for stepper in steppers]
        for batch in batches(data, configs[0].schedule.batch_size, _FIRST + rounds)
    ]
    return np.median(np.array(times[_FIRST:]), axis=0).tolist()


def parameters(config: RunConfig, table: ShellTable) -> int:
    """Number of parameters."""
    return sum(p.numel() for p in FockModel(config.model, table.degrees, len(table.elements)).parameters())
