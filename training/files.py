"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

# in the folder of a run
STATE, MODEL, CONFIG, LOG = "state.pt", "model.pt", "config.toml", "log.csv"


def write_synced(path: Path, content: bytes | memoryview) -> None:
    """Write a file and wait until it is on disk."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file in one atomic step; a failure leaves the old one and nothing else."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_synced(partial, content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
