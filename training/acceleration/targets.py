"""Converged Fock matrices of a study, kept so that further guesses need not run the first one again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.files import file_name, read_array, replace_file

Array = NDArray[np.float64]


class Targets:
    """One file for each molecule in `targets` below the folder of a study, whose protocol is one and the same."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "targets"

    def _path(self, name: str) -> Path:
        return self.folder / f"{file_name(name)}.npy"

    def read(self, name: str) -> Array | None:
        """Matrix (nao, nao), or (2, nao, nao), hartree, of a molecule; None where there is none, or none to be read."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                return read_array(file, path.stat().st_size)
        except (OSError, ValueError):
            return None

    def write(self, name: str, fock: Array) -> None:
        """Keep the matrix of a molecule."""
        content = io.BytesIO()
        np.save(content, fock, allow_pickle=False)
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self._path(name), content.getbuffer())
