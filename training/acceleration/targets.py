"""Converged Fock matrices of a study, kept so that further guesses need not run the first one again."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from training.files import replace_file

Array = NDArray[np.float64]

_LONGEST = 200  # letters of a file's name; file systems take 255, and three go for each byte that is not ASCII


class Targets:
    """One file for each molecule in `targets` below the folder of a study, whose protocol is one and the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "targets"

    def _path(self, name: str) -> Path:
        safe = quote(name, safe="")
        if len(safe) > _LONGEST:
            safe = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / f"{safe}.npy"

    def read(self, name: str) -> Array | None:
        """Matrix (nao, nao), or (2, nao, nao), hartree, of a molecule; None where there is none, or none to be read."""
        try:
            return np.load(self._path(name), allow_pickle=False)
        except (OSError, ValueError):
            return None

    def write(self, name: str, fock: Array) -> None:
        """Keep the matrix of a molecule."""
        content = io.BytesIO()
        np.save(content, fock, allow_pickle=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._path(name), content.getbuffer())
