"""Batches ahead of time: a thread collates them, and copies them to the GPU, while the device works on earlier ones."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch_geometric.data import Batch, Data

# Batches that wait at most; more only takes memory.
AHEAD = 4
# Seconds between looks at whether the run has ended, while the queue is full.
_PATIENCE = 0.1


@dataclass(frozen=True)
class _Ready:
    """A batch on its device, with the event after which it may be used there."""

    batch: Data
    event: Any = None


@dataclass(frozen=True)
class _Failed:
    """What the thread stumbled over."""

    error: Exception


class BatchLoader:
    """Iterate to get the batches of `data` that `indices` lists, in that order, on `device`.

    Its thread starts at once and ends with `close`. `waited`: seconds for which the iteration had to wait.
    An exception in the thread is raised in the iteration.
    """

    def __init__(
        self, data: Sequence[Data], indices: Iterable[list[int]], device: torch.device, ahead: int = AHEAD
    ) -> None:
        self.waited = 0.0
        self._data, self._indices, self._device = data, indices, device
        self._queue: queue.Queue[_Ready | _Failed | None] = queue.Queue(ahead)
        self._ended = threading.Event()
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Data]:
        while True:
            start = time.perf_counter()
            item = self._queue.get()
            self.waited += time.perf_counter() - start
            if item is None:
                return
            if isinstance(item, _Failed):
                raise item.error
            if item.event is not None:
                current = torch.cuda.current_stream(self._device)
                current.wait_event(item.event)
                item.batch.record_stream(current)  # its memory is not reused before this stream is done with it
            yield item.batch

    def _work(self) -> None:
        try:
            for chosen in self._indices:
                if not self._put(self._prepare([self._data[k] for k in chosen])):
                    return
            self._put(None)
        except Exception as error:  # noqa: BLE001  (whatever it is, it belongs into the loop)
            self._put(_Failed(error))

    def _put(self, item: _Ready | _Failed | None) -> bool:
        """False where the run has ended."""
        while not self._ended.is_set():
            try:
                self._queue.put(item, timeout=_PATIENCE)
            except queue.Full:
                continue
            return True
        return False

    def _prepare(self, molecules: list[Data]) -> _Ready:
        batch = Batch.from_data_list(molecules)
        if self._stream is None:
            return _Ready(batch.to(self._device))
        batch = batch.pin_memory()
        with torch.cuda.stream(self._stream):
            batch = batch.to(self._device, non_blocking=True)
            return _Ready(batch, self._stream.record_event())
