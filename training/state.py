"""What a run writes to go on from: replaced as a whole or not at all."""

from __future__ import annotations

import io
import math
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


class StateError(ValueError):
    """A run cannot be gone on with; the message says why and what to do."""


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
    """Whether a file that torch wrote has the content that its check sums say; torch does not look when it loads.

    torch does not compress: a file that does would unpack to anything.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            return stored and archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError):
        return False


def read_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """State of a run, with all that `Trainer.save` puts there. Raises StateError where there is none, or a damaged one.

    Nothing in it is executed.
    """
    path = folder / STATE
    if not path.exists():
        raise StateError(f"{folder} holds no run to go on with ({STATE} is missing); start one without --resume")
    instead = (
        f"start again in another folder, from the weights in {MODEL} if they are good: section [start] of the config, "
        'model = "PATH"'
    )
    if not is_intact(path):
        raise StateError(f"{path} is damaged; {instead}")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # noqa: BLE001  (whatever torch meets in what is no state)
        reason = (str(error).splitlines() or [""])[0].strip() or type(error).__name__
        raise StateError(f"{path} cannot be read ({reason}); {instead}") from None
    if what := _wrong(state):
        raise StateError(f"{path} is not the state of a run ({what}); {instead}")
    found: dict[str, Any] = state
    return found


def _wrong(state: Any) -> str:
    """What is wrong with the content of a state, empty where nothing is."""
    if not isinstance(state, dict):
        return f"it holds {type(state).__name__}"
    kinds = {"config": dict, "train": list, "model": dict, "mean": dict, "optimizer": dict, "step": int}
    for key, kind in kinds.items():
        if type(state.get(key)) is not kind and not (kind is dict and isinstance(state.get(key), dict)):
            return f"{key!r} is missing, or not {kind.__name__}"
    if state["step"] < 0 or not all(isinstance(name, str) for name in state["train"]):
        return "'step' is negative, or 'train' not a list of names"
    seconds = state.get("seconds")
    if not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        return "'seconds' is not a time"
    for name in ("model", "mean"):
        for key, value in state[name].items():
            if not isinstance(value, torch.Tensor) or not bool(torch.isfinite(value).all()):
                return f"{name}.{key} is not a tensor of finite numbers"
    random = state.get("random", {"cpu": torch.ByteTensor()})
    if not isinstance(random, dict) or not isinstance(random.get("cpu"), torch.Tensor):
        return "'random' is not a state of random numbers"
    return ""


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
