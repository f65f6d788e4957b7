"""Columns and attributes of an HDF5 file that is not trusted: checked for what they claim before they are read.

What is read lies in the file itself (no links to other files or names, no external storage), is of the kind that is
asked for, and is no larger than what the file can hold, so that a damaged header allocates nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

TEXT, WHOLE, REAL = "text", "whole numbers", "numbers"
_KINDS = {WHOLE: "iu", REAL: "fiu"}
_SLACK = 1 << 20  # bytes that a dataset may have without being written: fill values, a chunk that is not full
_RATIO = 1032  # what deflate saves at most
_ATTRIBUTE = 1 << 16  # bytes; HDF5's own limit of compact storage


class Damaged(ValueError):
    """A file is not what it says; the message is for whoever names the file."""


@contextmanager
def damage() -> Iterator[None]:
    """Whatever HDF5 and h5py raise in a damaged file, as `Damaged`."""
    try:
        yield
    except Damaged:
        raise
    except Exception as error:  # noqa: BLE001  (OSError, RuntimeError, KeyError, TypeError and others)
        text = " ".join(str(error).split())
        raise Damaged(f"damaged inside, copy or make it again ({text or type(error).__name__})") from None


def open_file(path: Path) -> h5py.File:
    """A file to read. Raises OSError where it is no HDF5 file that can be read."""
    try:
        return h5py.File(path, "r")
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  (as in `damage`)
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from None


def attribute(file: h5py.File, name: str) -> Any:
    """A single text or number, None where there is none."""
    with damage():
        if name not in file.attrs:
            return None
        found = file.attrs.get_id(name)
        if math.prod(found.shape) != 1 or found.get_storage_size() > _ATTRIBUTE:
            raise Damaged(f"attribute {name!r} is not a single text or number")
        value = np.ravel(np.asarray(file.attrs[name]))[0]
        if isinstance(value, bytes):
            return value.decode()
        return value.item() if isinstance(value, np.generic) else value


def dataset(file: h5py.File, name: str, kind: str, width: int | None = None) -> h5py.Dataset | None:
    """A dataset (n,), or (n, width), of a kind; None where there is none of that name."""
    with damage():
        link = file.get(name, getlink=True) if name in file.keys() else None  # noqa: SIM118 - `in` follows links
        if link is None:
            return None
        if not isinstance(link, h5py.HardLink):
            raise Damaged(f"dataset {name!r} is a link to elsewhere, which is not followed")
        found = file[name]
        if not isinstance(found, h5py.Dataset):
            raise Damaged(f"{name!r} is not a dataset")
        if found.is_virtual or found.external:
            raise Damaged(f"dataset {name!r} has its numbers in another file, which is not read")
        expected = 1 if width is None else 2
        if found.shape is None or len(found.shape) != expected or (width is not None and found.shape[1] != width):
            raise Damaged(
                f"dataset {name!r} has the shape {found.shape}, not (n{'' if width is None else f', {width}'})"
            )
        is_text = h5py.check_string_dtype(found.dtype) is not None
        if is_text != (kind == TEXT) or (kind != TEXT and found.dtype.kind not in _KINDS[kind]):
            raise Damaged(f"dataset {name!r} holds {found.dtype}, not {kind}")
        _check_size(found, name)
        return found


def _check_size(found: h5py.Dataset, name: str) -> None:
    claimed = math.prod(found.shape) * found.dtype.itemsize
    held = found.id.get_storage_size()
    if claimed > _SLACK + _RATIO * held:
        raise Damaged(f"dataset {name!r} claims {claimed:.1e} bytes, of which {held} are there")


def column(found: h5py.Dataset) -> NDArray[Any]:
    """All of a dataset; texts as `str`."""
    with damage():
        if h5py.check_string_dtype(found.dtype) is not None:
            return np.array(found.asstr()[:], dtype=object)
        return np.asarray(found[:])
