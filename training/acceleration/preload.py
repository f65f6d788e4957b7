"""What a local worker does before its first task; Dask calls `dask_setup`."""

from __future__ import annotations

import signal
from typing import Any


def dask_setup(_: Any) -> None:
    """Leave Ctrl-C to the run, which ends its workers; and import now what every task needs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import training.acceleration.runs  # noqa: F401
