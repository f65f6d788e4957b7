"""Measured rows, one frozen dataclass each, in a CSV or in lines of JSON that an interrupted run continues."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_KINDS: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "bool": lambda text: {"True": True, "False": False}[text],
}


class RowsError(ValueError):
    """A file of rows cannot be read; the message says where and why."""


def read_rows(path: Path | None, kind: type[T]) -> list[T]:
    """Rows of an earlier, perhaps interrupted, run; none where there is no file. kind: dataclass of plain fields.

    A last line that was cut off is left out; `append_lines` takes it away. Raises RowsError for a file of other
    columns, or with a cell that is not of its kind.
    """
    if path is None or not path.exists():
        return []
    parse = {f.name: _KINDS[str(f.type)] for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    needed = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}  # type: ignore[arg-type]
    rows: list[T] = []
    try:
        with io.StringIO(_whole_lines(path.read_bytes()).decode(), newline="") as file:
            for line in csv.DictReader(file, strict=True):
                if not needed <= set(line) <= set(parse) or None in line.values():
                    raise RowsError(f"other columns, or another number of cells, than {', '.join(parse)}")
                rows.append(kind(**{name: parse[name](text) for name, text in line.items()}))
    except (ValueError, KeyError, csv.Error) as error:
        raise RowsError(f"{path}: line {len(rows) + 2} cannot be read ({error}); copy the file or remove it") from None
    return rows


def append_rows(path: Path, rows: Sequence[Any]) -> None:
    """Write rows, dataclasses of plain fields, after those of the file, which is made where it is missing."""
    append_lines(path, [dataclasses.asdict(row) for row in rows])


def append_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    """Write lines of the same columns after those of the file, which is made where it is missing."""
    if not lines:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _take_cut_line_away(path)
    fresh = not path.exists() or path.stat().st_size == 0
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]))
        if fresh:
            writer.writeheader()
        writer.writerows(lines)


def read_json_rows(path: Path, kind: type[T]) -> list[T]:
    """Rows that `append_json_row` wrote; none where there is no file. Fields that `kind` does not have are left out."""
    if not path.exists():
        return []
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    lines = [json.loads(line) for line in _whole_lines(path.read_bytes()).splitlines()]
    lists = [{k: tuple(v) if isinstance(v, list) else v for k, v in line.items() if k in names} for line in lines]
    return [kind(**line) for line in lists]


def append_json_row(path: Path, row: Any) -> None:
    """Write a row, a dataclass of plain fields and tuples of them, as one line; what JSON has not (nan) is left out."""
    fields = {k: v for k, v in dataclasses.asdict(row).items() if not isinstance(v, float) or math.isfinite(v)}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _take_cut_line_away(path)
    with path.open("a") as file:
        file.write(json.dumps(fields) + "\n")


def _whole_lines(content: bytes) -> bytes:
    """What stands before a last line that was cut off when its run was killed; no cell of a row holds a line end."""
    return content[: content.rfind(b"\n") + 1]


def _take_cut_line_away(path: Path) -> None:
    with path.open("r+b") as file:
        if file.seek(0, os.SEEK_END) == 0:
            return
        file.seek(-1, os.SEEK_END)
        if file.read() != b"\n":
            file.truncate(len(_whole_lines(path.read_bytes())))
