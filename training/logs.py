"""Logs of a run: `log.csv`, TensorBoard's events and a picture of the curves."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training.files import LOG, replace_file

CURVES, EVENTS = "curves.png", "tensorboard"
_ERRORS = ("mae", "ov", "mo", "trace")


def read_log(path: Path) -> list[dict[str, str]]:
    """Rows of a log; none where there is no file. Lines that were cut off are left away."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [row for row in csv.DictReader(file) if (row.get("step") or "").isdigit() and None not in row.values()]


def _event_writer(folder: Path, step: int) -> Any:
    """TensorBoard's writer, None where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        tqdm.write("no TensorBoard log: the package tensorboard is not installed")
        return None
    return SummaryWriter(str(folder / EVENTS), purge_step=step + 1 if step else None)


def _event_name(column: str) -> str:
    group, _, name = column.rpartition("_")
    return f"{group}/{name}" if group and name in _ERRORS else f"run/{column}"


class RunLog:
    """The logs in the folder of a run that is at some step; rows of later steps are dropped.

    Those are of a run that was killed after it had written its log and before its state. Close it in the end.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self.folder = folder
        self._rows: list[dict[str, Any]] = [r for r in read_log(folder / LOG) if step and int(r["step"]) <= step]
        self._events = _event_writer(folder, step)
        self._draws = True

    def close(self) -> None:
        """Write what TensorBoard's writer holds back."""
        if self._events is not None:
            self._try("TensorBoard", self._events.close)

    def write(self, row: Mapping[str, float]) -> None:
        """Add a row; a row of the same step is replaced. Raises OSError where `log.csv` cannot be written."""
        self._rows = [r for r in self._rows if int(r["step"]) != row["step"]] + [dict(row)]
        text = io.StringIO()
        columns = list(dict.fromkeys(column for r in self._rows for column in r))
        writer = csv.DictWriter(text, columns, restval="nan", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows)
        replace_file(self.folder / LOG, text.getvalue().encode())
        if self._events is not None and not self._try("TensorBoard", lambda: self._add_events(row)):
            self._events = None
        if self._draws:
            self._draws = self._try("curves", self._draw)

    def _add_events(self, row: Mapping[str, float]) -> None:
        for column, value in row.items():
            if column != "step" and math.isfinite(value):
                self._events.add_scalar(_event_name(column), value, int(row["step"]))
        self._events.flush()

    def _draw(self) -> None:
        from training.curves import draw_curves  # matplotlib is loaded here, not before

        draw_curves(self.folder / LOG, self.folder / CURVES)

    @staticmethod
    def _try(what: str, action: Any) -> bool:
        """Whether it worked. Pictures and events are extras: no failure of theirs ends a run of hours."""
        try:
            action()
        except Exception as error:  # noqa: BLE001
            tqdm.write(f"no {what} from here on: {type(error).__name__}: {error}")
            return False
        return True


@dataclass
class Window:
    """Steps since the last row of the log: figures of each, and the time spent waiting for the loader."""

    figures: list[Tensor] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)
    waited: float = 0.0

    def mean(self) -> Tensor:
        """Mean figures (mae, ov, mo, trace) over the steps; NaN where there are none."""
        return torch.stack(self.figures).mean(0) if self.figures else torch.full((len(_ERRORS),), math.nan)

    def wait_share(self, waited: float) -> float:
        """Share of the wall time since the start, given the time waited by now."""
        return (waited - self.waited) / max(time.perf_counter() - self.start, 1e-9)
