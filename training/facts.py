"""What a run was made from: `run.json` in its folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyscf_tracegrad import __version__
from pyscf_tracegrad.pretrained import SHIPPED
from training.files import replace_file
from training.loop import Trainer
from training.tensors import file_digest

FACTS = "run.json"
_PACKAGES = ("torch", "e3nn", "pyscf", "torch-geometric", "numpy")


def _files(paths: Sequence[str]) -> list[dict[str, str]]:
    return [{"file": Path(path).name, "sha256": file_digest(path)} for path in paths]


def facts(trainer: Trainer, labels: Sequence[str], validation: Mapping[str, str]) -> dict[str, Any]:
    """Label files with their SHA-256, sizes, versions, device, and the model that the run starts from."""
    start = trainer.config.start.model
    return {
        "labels": _files(labels),
        "validation": {name: _files([path])[0] for name, path in validation.items()},
        "start": _files([str(SHIPPED) if start == "shipped" else start]) if start else [],
        "theory": {"xc": trainer.theory.xc, "basis": trainer.theory.basis},
        "training_molecules": len(trainer.train),
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "device": trainer.device.type,
        "processes": trainer.world.size,
        "versions": {"python": platform.python_version(), "pyscf_tracegrad": __version__}
        | {name: version(name) for name in _PACKAGES},
    }


def write_facts(folder: Path, content: Mapping[str, Any]) -> None:
    """Write `run.json`."""
    replace_file(folder / FACTS, (json.dumps(content, indent=1) + "\n").encode())


def check_labels_unchanged(folder: Path, labels: Sequence[str]) -> None:
    """Raises ValueError where the label files are not those that the run in a folder was started with."""
    path = folder / FACTS
    if not path.exists():
        return
    before = {entry["sha256"] for entry in json.loads(path.read_text())["labels"]}
    changed = [entry["file"] for entry in _files(labels) if entry["sha256"] not in before]
    if changed:
        raise ValueError(
            f"{folder} was started with other label files: the content of {', '.join(changed)} has changed; give the "
            "files of then, or start in another folder (section [start] of the config takes over the weights)"
        )
