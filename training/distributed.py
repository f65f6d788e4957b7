"""One process or several (`torchrun`): shares of a batch, gradients and decisions that all processes have in common."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.data import Data

from pyscf_tracegrad.model import FockModel
from training.config import LossWeights
from training.losses import total_loss

# A validation on the first process, or its first conversion of labels, keeps the others waiting.
_PATIENCE = timedelta(hours=6)


@dataclass(frozen=True)
class World:
    """One process among `size` of them; the first one writes, logs and validates."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def check_batch(self, batch_size: int) -> None:
        """Raises ValueError where a batch cannot be shared out evenly."""
        if batch_size % self.size:
            raise ValueError(
                f"a batch of {batch_size} molecules cannot be shared by {self.size} processes; make batch_size a "
                "multiple of their number (it is at most the number of training molecules)"
            )

    def shares(self, batches: Iterable[list[int]]) -> Iterator[list[int]]:
        """Own share of each batch."""
        return (batch[self.rank :: self.size] for batch in batches)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the processes."""
        if self.size == 1:
            return value
        value = value.clone()
        distributed.all_reduce(value)
        return value / self.size

    def any(self, flags: tuple[bool, ...], device: torch.device) -> tuple[bool, ...]:
        """For each flag, whether a process has set it."""
        if self.size == 1:
            return flags
        counts = torch.tensor(flags, dtype=torch.int32, device=device)
        distributed.all_reduce(counts, distributed.ReduceOp.MAX)
        return tuple(bool(c) for c in counts.tolist())

    def broadcast(self, module: nn.Module) -> None:
        """Give every process the parameters and buffers of the first."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                distributed.broadcast(tensor, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            distributed.barrier()


def current_world() -> World:
    """Place in the process group of torch if there is one, else this process alone."""
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), distributed.get_world_size())
    return World()


@contextmanager
def process_group(device: str) -> Iterator[tuple[World, torch.device]]:
    """Join the processes that `torchrun` has started, gloo on CPUs and nccl on GPUs (one GPU a process).

    Gives this process's place and device. Without torchrun: this process alone, and the device as it is.
    """
    if "WORLD_SIZE" not in os.environ:
        yield World(), torch.device(device)
        return
    own = torch.device(device)
    if own.type == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
    distributed.init_process_group("nccl" if own.type == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield current_world(), own
    finally:
        distributed.destroy_process_group()


class BatchLoss(nn.Module):
    """Batch -> loss and its figures (mae, ov, mo, trace), detached; see `losses.total_loss`.

    With several processes each has the loss of its share. Gradients are averaged, which gives that of the whole batch,
    but for the trace loss: its weight mu = lambda L_H / L_trace is that of a process's own share.
    """

    def __init__(self, model: FockModel, weights: LossWeights) -> None:
        super().__init__()
        self.model, self.weights = model, weights

    def forward(self, batch: Data) -> tuple[Tensor, Tensor]:
        loss, found, traces = total_loss(self.model, batch, self.weights)
        return loss, torch.stack([found.mae.mean(), found.ov.mean(), found.mo.mean(), traces]).detach()


def batch_loss(model: FockModel, weights: LossWeights, world: World, device: torch.device) -> Any:
    """`BatchLoss`, whose backward pass averages the gradients over all processes."""
    loss = BatchLoss(model, weights)
    if world.size == 1:
        return loss
    known = inspect.signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # as torch 2.4 calls it
    fixed_buffers: dict[str, Any] = {sync: False}  # the moments do not change
    return DistributedDataParallel(
        loss,
        device_ids=[device] if device.type == "cuda" else None,
        find_unused_parameters=True,  # the decoder of traces, where no trace loss asks for it
        **fixed_buffers,
    )
