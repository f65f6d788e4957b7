"""Exchange matrices from fitted integrals in single precision, a quarter of the time of PySCF's.

    K[D]_pq = sum_P,i X_pPi X_qPi,    X_pPi = sum_q (P|pq) C_qi sqrt(n_i)

as `pyscf.df.df_jk.get_jk` does it, with (P|pq) whole and in single precision: two matrix products, no unpacking.
Elements differ by some 1e-8 hartree, 5e-6 where an atom's innermost orbital meets itself: a hundredth of what a
correction takes away (`refine.py`), and nothing beside the error of the fit. The Coulomb matrix, of a hundred times
larger terms, is not for single precision.

Array letters: P fitting functions, p and q AOs, i occupied orbitals.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import lib

from pyscf_tracegrad.density import Factor
from pyscf_tracegrad.workers import sum_over_workers

Array = NDArray[np.float64]
Single = NDArray[np.float32]

# Elements of X at a time, 4 MB: what a core keeps near, and enough for the matrix products.
_ELEMENTS = 1 << 20
# Of the free memory that the integrals may take a second time.
_SHARE = 0.5


class SingleK:
    """K of one molecule from the integrals (P, pq) of PySCF's density fitting, lower triangles.

    Keeps them unpacked, which in single precision takes as much memory as they do.
    """

    def __init__(self, integrals: Array, nao: int, n_occupied: int) -> None:
        self._nao = nao
        self._step = max(1, _ELEMENTS // (nao * n_occupied))
        self._blocks: list[Single] = [
            lib.unpack_tril(integrals[start : start + self._step]).astype(np.float32)
            for start in range(0, len(integrals), self._step)
        ]

    @staticmethod
    def possible(integrals: Any, max_memory: float) -> bool:
        """Whether the integrals are in memory, and max_memory (MB) has room for them once more."""
        if not isinstance(integrals, np.ndarray):
            return False
        return bool(integrals.nbytes * 1e-6 < _SHARE * (max_memory - lib.current_memory()[0]))

    @property
    def megabytes(self) -> float:
        """Memory of the integrals, MB."""
        return 1e-6 * sum(block.nbytes for block in self._blocks)

    def __call__(self, factors: tuple[Factor, ...]) -> Array:
        """K (s, nao, nao), hartree, of one factor (restricted, the whole density) or two (one per spin).

        Occupations must not be negative.
        """
        weighted = [np.ascontiguousarray((f.orbitals * np.sqrt(f.occupations)).T, dtype=np.float32) for f in factors]

        def part(first: int, step: int) -> Array:
            total = np.zeros((len(factors), self._nao, self._nao))
            widest = max(len(w) for w in weighted)
            buffer = np.empty(self._step * widest * self._nao, dtype=np.float32)
            for block in self._blocks[first::step]:
                for spin, orbitals in enumerate(weighted):
                    total[spin] += _exchange(block, orbitals, buffer)
            return total

        return sum_over_workers(part, len(self._blocks))


def _exchange(block: Single, orbitals: Single, buffer: Single) -> Single:
    """Part of K (p, q) from integrals (P, p, q) and weighted orbitals (i, p)."""
    n_fitting, nao, _ = block.shape
    half = buffer[: n_fitting * orbitals.size].reshape(n_fitting, *orbitals.shape)
    np.matmul(orbitals, block, out=half)
    half = half.reshape(-1, nao)
    exchange: Single = half.T @ half
    return exchange
