"""One file per model: weights, typed config, shell table, level of theory, standardisation, format version.

Beside it stand its SHA-256 in a file of the same name with `.sha256` appended, in the form of `sha256sum`, and a record
of what it covers with `.json` appended (`models.py`), which can be read without torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pyscf_tracegrad import models
from pyscf_tracegrad.config import ModelConfig, from_dict
from pyscf_tracegrad.errors import CheckpointError
from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.orbitals import ShellTable
from pyscf_tracegrad.upgrades import VERSION, upgrade

FORMAT = "pyscf_tracegrad-model"

checksum_file = models.checksum_file


@dataclass(frozen=True)
class Checkpoint:
    """A model with what is needed to use it.

    shells: AOs it knows, per element. xc, basis: level of theory of its labels. serve_ions: whether the network, or
    only the reference, serves charged molecules. metadata: figures for people.
    """

    model: FockModel
    shells: ShellTable
    xc: str
    basis: str
    serve_ions: bool = False
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, its checksum and its record, each in one atomic step; a failure leaves no partial file."""
    path = Path(path)
    data = {
        "format": FORMAT,
        "version": VERSION,
        "config": dataclasses.asdict(checkpoint.model.config),
        "shells": checkpoint.shells.to_list(),
        "xc": checkpoint.xc,
        "basis": checkpoint.basis,
        "serve_ions": checkpoint.serve_ions,
        "metadata": checkpoint.metadata,
        "state": {k: v.detach().cpu() for k, v in checkpoint.model.state_dict().items()},
    }
    buffer = io.BytesIO()  # torch writes a file's name into it; the same model must give the same bytes
    torch.save(data, buffer)
    digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    record = models.ModelRecord(checkpoint.xc, checkpoint.basis, checkpoint.shells)
    try:
        partial.write_bytes(buffer.getbuffer())
        partial.replace(path)
        partial.write_text(f"{digest}  {path.name}\n")
        partial.replace(checksum_file(path))
        partial.write_text(record.to_json(digest), encoding="utf-8")
        partial.replace(models.record_file(path))
    finally:
        partial.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint after checking its SHA-256 and its format version.

    Raises CheckpointError for a file that is missing, damaged, of another version, or not a checkpoint of this package.
    """
    path = Path(path)
    _check_sum(path)
    if not zipfile.is_zipfile(path):  # torch warns of a bare pickle before it refuses it
        raise CheckpointError(f"{path}: not a checkpoint of pyscf_tracegrad")
    try:
        data: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler stumbles over
        raise CheckpointError(f"{path}: not a checkpoint of pyscf_tracegrad ({type(error).__name__})") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of pyscf_tracegrad")
    try:
        data = upgrade(data)
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    try:
        config = from_dict(ModelConfig, data["config"])
        shells = ShellTable.from_list(data["shells"])
        model = FockModel(config, shells.degrees, len(shells.elements))
        model.load_state_dict(data["state"])
        return Checkpoint(model.eval(), shells, data["xc"], data["basis"], data["serve_ions"], dict(data["metadata"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its content does not fit this release ({error})") from error


def _check_sum(path: Path) -> None:
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); give the path of a model file") from None
    try:
        expected = checksum_file(path).read_text(encoding="utf-8").split()[0]
    except (OSError, IndexError, UnicodeDecodeError):
        raise CheckpointError(
            f"{checksum_file(path)}: missing, empty or no text; it must hold the model's SHA-256"
        ) from None
    if digest != expected:
        raise CheckpointError(
            f"{path}: SHA-256 does not match {checksum_file(path).name}; the file is damaged: reinstall"
        )
