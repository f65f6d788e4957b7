"""What a training step costs: CPU seconds side by side, and memory."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch_geometric.data import Batch, Data
from torch_geometric.loader import DataLoader

from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.orbitals import ShellTable
from training.bench.synthetic import BASIS, synthetic_data
from training.bench.throughput import ELEMENTS, in_own_process, memory_bytes
from training.config import RunConfig
from training.dataset import StepSampler
from training.losses import total_loss

_FIRST = 2  # steps that are not counted: kernels are chosen, memory is taken
_CARBONS = 5  # of the alkanes that memory is measured with; 17 atoms are a common size among the labels


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


def step_memory(config: RunConfig) -> float:
    """Peak bytes of training steps on a batch of molecules of 17 atoms, above what the imports take.

    Measured in a process of its own. Raises RuntimeError where that is killed.
    """
    return in_own_process(_own_memory, config, 1)


def _own_memory(config: RunConfig) -> float:
    before = memory_bytes(peak=False)
    table = ShellTable.from_basis(BASIS, ELEMENTS)
    stepper = Stepper(config, table)
    batch = Batch.from_data_list(synthetic_data(config.model, table, _CARBONS, config.schedule.batch_size))
    for _ in range(_FIRST):
        stepper.step(batch)
    return float(memory_bytes(peak=True) - before)
