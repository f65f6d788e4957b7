"""Tensors of many molecules in one file that is mapped into memory, so that labels are converted once."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import pickle
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.state import is_intact

# Raise it when the content of the tensors changes for the same labels and settings.
VERSION = 1


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def write_tensors(path: Path, key: str, molecules: Sequence[Mapping[str, Any]]) -> None:
    """Write the fields of molecules in one atomic step; `key` says what they were made from.

    Tensors of one name are joined along their first axis, `edge_index` along its last. Where the file cannot be written
    a line says so: it is a cache, and the run goes on without.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"version": VERSION, "key": key, "fields": _pack(molecules)}, partial)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as RuntimeError
        print(f"{path}: cannot be written, the labels will be converted again ({error})", file=sys.stderr, flush=True)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def read_tensors(path: Path, key: str) -> list[dict[str, Any]] | None:
    """Fields of the molecules of a file, views of memory that is mapped.

    None where there is no such file, where it was made from something else than `key`, and where it is damaged (the
    check sums of the file are tried).
    """
    try:
        if not is_intact(path):
            return None
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        if content["version"] != VERSION or content["key"] != key:
            return None
        return _unpack(content["fields"])
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, pickle.UnpicklingError):
        return None


def _axis(name: str) -> int:
    return 1 if name == "edge_index" else 0


def _pack(molecules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    packed: dict[str, Any] = {}
    for name, first in molecules[0].items():
        values = [m[name] for m in molecules]
        if isinstance(first, Tensor):
            sizes = [value.shape[_axis(name)] for value in values]
            packed[name] = {"sizes": sizes, "values": torch.cat(values, _axis(name))}
        else:
            packed[name] = values
    return packed


def _unpack(packed: Mapping[str, Any]) -> list[dict[str, Any]]:
    columns: dict[str, Sequence[Any]] = {}
    for name, stored in packed.items():
        if isinstance(stored, dict):
            starts = itertools.accumulate(stored["sizes"], initial=0)
            columns[name] = [
                stored["values"].narrow(_axis(name), start, size)
                for start, size in zip(starts, stored["sizes"], strict=False)  # one start more than sizes
            ]
        else:
            columns[name] = stored
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
