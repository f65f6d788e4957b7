"""Torch's precision, memory in use and signals, for the length of a run."""

from __future__ import annotations

import resource
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def matmul_precision(device: torch.device, tf32: bool) -> Iterator[None]:
    """TensorFloat-32 for matrix products on a GPU within the block; what was set before is set again after it."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def memory(device: torch.device) -> float:
    """Peak memory so far in GB (1e9 bytes): tensors on a GPU, the whole process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


class Termination:
    """Whether the run was asked to end: number of the signal, None as long as there was none."""

    signal: int | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def termination() -> Iterator[Termination]:
    """SIGTERM and Ctrl-C are noted within the block, instead of ending the process. Only in the main thread.

    A second Ctrl-C is a KeyboardInterrupt again: a validation may take long.
    """
    asked = Termination()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def note(number: int, _: object) -> None:
        asked.signal = number
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    try:
        for number in before:
            signal.signal(number, note)
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
