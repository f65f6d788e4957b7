"""What a run writes to go on from: replaced as a whole or not at all."""

from __future__ import annotations

import io
import os
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import torch

from pyscf_tracegrad.checkpoint import Checkpoint, save_checkpoint
from training.files import MODEL, STATE, write_synced

_PARTIAL = ".partial-"


class RunStopped(RuntimeError):
    """A run cannot go on; the message says why, and what it leaves behind."""


def write_state(folder: Path, state: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Write `state.pt` and `model.pt` of a run.

    Both are complete on disk before the first of the old ones is replaced: raises OSError where they do not fit, and
    leaves the old ones.
    """
    buffer = io.BytesIO()  # torch's own writer hides the reason of a failure
    torch.save(state, buffer)
    with tempfile.TemporaryDirectory(dir=folder, prefix=_PARTIAL) as name:
        partial = Path(name)
        write_synced(partial / STATE, buffer.getbuffer())
        save_checkpoint(partial / MODEL, checkpoint)
        for file in sorted(partial.iterdir(), key=lambda p: p.name != STATE):
            with file.open("rb") as written:
                os.fsync(written.fileno())
            file.replace(folder / file.name)


def clear_partial(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for path in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


def is_intact(path: Path) -> bool:
    """Whether a file that torch wrote has the content that its check sums say; torch does not look when it loads."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def read_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """State of a run. Raises ValueError where there is none, or a damaged one."""
    path = folder / STATE
    if not path.exists():
        raise ValueError(f"{folder} holds no run to go on with ({STATE} is missing); start one without --resume")
    if not is_intact(path):
        raise ValueError(
            f"{path} is damaged; start again in another folder, from the weights in {MODEL} if they are good: section "
            '[start] of the config, model = "PATH"'
        )
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """State of torch's random numbers, of the CPU and of the GPU in use."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def restore_random_state(found: dict[str, torch.Tensor], device: torch.device) -> None:
    """Inverse of `random_state`; a state of a GPU is left away on a CPU."""
    torch.set_rng_state(found["cpu"].cpu())
    if device.type == "cuda" and "cuda" in found:
        torch.cuda.set_rng_state(found["cuda"].cpu(), device)
