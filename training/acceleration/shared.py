"""What the SCFs of one molecule have in common, calculated once: for studies of cycles, where times do not count."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from pyscf import lib
from pyscf.dft import numint, rks


class KeptNumInt(numint.NumInt):
    """PySCF's numerical integration with the AO values of each grid kept: four numbers per AO and point for a GGA."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[tuple[int, int], list[Any]] = {}

    def block_loop(self, mol: Any, grids: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """As `numint.NumInt.block_loop`."""
        deriv = kwargs["deriv"] if "deriv" in kwargs else args[1] if len(args) > 1 else 0
        key = (id(grids.coords), deriv)
        if key not in self._kept:
            # PySCF evaluates every block into the same memory
            blocks = super().block_loop(mol, grids, *args, **kwargs)
            self._kept[key] = [(np.copy(ao, order="K"), *rest) for ao, *rest in blocks]
        yield from self._kept[key]


class SharedParts:
    """Hands integrals in memory, the grid and the AO values on it from the first SCF object to the next ones.

    The cycles are those of separate objects: an SCF from another guess has the same integrals and the same grid.
    """

    def __init__(self) -> None:
        self._first: Any = None

    def give(self, mf: Any) -> None:
        """Let a fresh SCF object of the same molecule and settings use what is there."""
        is_dft = isinstance(mf, rks.KohnShamDFT)
        if self._first is None:
            self._first = mf
            if is_dft:
                mf._numint = KeptNumInt()
            return
        used = lib.current_memory()[0]  # what is kept is not the new object's: else its guess would work on disk
        mf.max_memory = mf.mol.max_memory = mf.mol.max_memory + used
        mf._eri = self._first._eri
        if getattr(mf, "with_df", None) is not None:
            mf.with_df = self._first.with_df
        if is_dft:
            mf.grids, mf._numint = self._first.grids, self._first._numint
