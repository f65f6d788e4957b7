"""Files that are there whole or not at all, names that are safe for files, and arrays of files that are not trusted."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import zipfile
from pathlib import Path
from typing import IO
from urllib.parse import quote_from_bytes

import numpy as np
from numpy.typing import NDArray

_PLAIN = re.compile(r"[a-z0-9_+-][a-z0-9_.+-]{0,99}")
_LEGIBLE = 60  # characters of a name that are kept for the eye
_DEFLATE = 1032  # what zlib saves at most, so that arrays are no larger than so many times their file


def file_name(name: str) -> str:
    """Name of a file, without folder or ending, for any text: of at most 100 characters, another for every text, also
    where a file system does not tell capital letters from small ones.

    Small letters, digits and `_.+-` stay as they are; anything else is quoted, cut, and told apart by a hash.
    """
    if _PLAIN.fullmatch(name):
        return name
    raw = name.encode("utf-8", "surrogatepass")
    legible = quote_from_bytes(raw, safe="").replace("~", "%7E").replace(".", "%2E")[:_LEGIBLE]
    return f"{legible}~{hashlib.sha256(raw).hexdigest()[:24]}"


def read_arrays(source: Path | bytes) -> dict[str, NDArray]:
    """Arrays of an npz file, or of its content. Nothing is executed, and no array may be larger than the file can hold.

    Raises OSError where it cannot be read, ValueError where it is none or damaged.
    """
    content = source if isinstance(source, bytes) else source.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {entry.filename.removesuffix(".npy"): _member(archive, entry) for entry in archive.infolist()}
    except Exception as error:  # noqa: BLE001  (whatever zipfile, zlib and NumPy meet in a damaged file)
        raise ValueError(f"not a file of arrays, or damaged ({' '.join(str(error).split())})") from None


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray:
    if entry.file_size > _DEFLATE * entry.compress_size:
        raise ValueError(f"{entry.filename} claims {entry.file_size} bytes in {entry.compress_size}")
    with archive.open(entry) as file:
        return read_array(file, entry.file_size)


def read_array(file: IO[bytes], size: int) -> NDArray:
    """The array of an npy file of `size` bytes. Raises ValueError where it claims another size, or holds objects."""
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"arrays of version {version} are not read")
    shape, _, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError("objects are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize + file.tell() != size:
        raise ValueError(f"{shape} of {dtype} are not the {size} bytes that are there")
    file.seek(0)
    return np.lib.format.read_array(file, allow_pickle=False)


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
