"""Orthonormal bases of a padded block that symmetry keeps apart.

Pair block in its bond frame: entry (l1 m1, l2 m2) contributes to the SO(2) components k = |m1| - |m2| and k = |m1| +
|m2|. For 3s 2p 1d that is 196 = 46 even scalars + 10 odd (pseudo-)scalars + 2 (42 + 21 + 6 + 1) for k = 1..4.

On-site block: symmetric, so 105 components, in irreps by Wigner-3j symbols. Those with parity (-1)^L are natural; the
few others (1e of 2p-3p, 2o of p-d) need a product of features.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pyscf_tracegrad.o3 import o3

Array = NDArray[np.float64]


def shell_starts(shells: tuple[int, ...]) -> list[int]:
    """First row of each shell of a block with these degrees."""
    return [0, *np.cumsum([2 * l + 1 for l in shells]).tolist()][:-1]


@dataclass(frozen=True)
class PairBasis:
    """SO(2) components of a pair block, rows ordered: even scalars, odd scalars, then k = 1, 2, ...: cosine, sine.

    forward (n, width^2): components of a block in the frame of i -> j are `forward @ block.ravel()`. reverse (n,
    width^2): components of the transposed block in the frame of j -> i, from the same `block` in the frame of i -> j.
    Both have orthonormal rows and n = width^2. counts: number of components of each k (key -1: odd scalars).
    shell_pair (n,): first shell * n_shells + second shell of each component.
    """

    forward: Array
    reverse: Array
    counts: dict[int, int]
    shell_pair: NDArray[np.int64]

    @property
    def sizes(self) -> list[int]:
        """Row counts: even scalars, odd scalars, cosine and sine of k = 1, 2, ... together."""
        return [self.counts[0], self.counts[-1]] + [2 * self.counts[k] for k in sorted(self.counts) if k > 0]

    @property
    def distinct(self) -> NDArray[np.int64]:
        """For each component, a number shared by the cosine and sine of one pair: they have one rms."""
        index, start = [], 0
        for k in [0, -1, *sorted(k for k in self.counts if k > 0)]:
            once = list(range(start, start + self.counts[k]))
            index += once if k <= 0 else once + once
            start += self.counts[k]
        return np.array(index)


def pair_basis(shells: tuple[int, ...]) -> PairBasis:
    """The basis for padded shells of these degrees, e.g. (0, 0, 0, 1, 1, 2)."""
    starts = shell_starts(shells)
    width = sum(2 * l + 1 for l in shells)
    rows: dict[tuple[int, str], list[Array]] = {}
    pairs: dict[tuple[int, str], list[int]] = {}
    for a, l1 in enumerate(shells):
        for b, l2 in enumerate(shells):
            for k, kind, block in _shell_pair_components(l1, l2):
                full = np.zeros((width, width))
                full[starts[a] : starts[a] + 2 * l1 + 1, starts[b] : starts[b] + 2 * l2 + 1] = block
                rows.setdefault((k, kind), []).append(full)
                pairs.setdefault((k, kind), []).append(a * len(shells) + b)
    ks = sorted(k for k, kind in rows if kind == "sin")
    order = [(0, "cos"), (-1, "cos")] + [(k, kind) for k in ks for kind in ("cos", "sin")]
    matrices = np.array([block for key in order for block in rows.get(key, [])])
    signs = np.concatenate([np.full(2 * l + 1, (-1.0) ** l) for l in shells])
    reverse = (matrices * signs[:, None] * signs[None, :]).transpose(0, 2, 1)
    counts = {k: len(rows.get((k, "cos"), [])) for k in (0, -1, *ks)}
    shell_pair = np.array([p for key in order for p in pairs.get(key, [])])
    n = width * width
    return PairBasis(matrices.reshape(n, n), reverse.reshape(n, n), counts, shell_pair)


def _shell_pair_components(l1: int, l2: int) -> list[tuple[int, str, Array]]:
    """(k, 'cos' or 'sin', unit matrix) of one shell pair; k = -1 stands for the odd scalars."""

    def unit(m1: int, m2: int) -> Array:
        block = np.zeros((2 * l1 + 1, 2 * l2 + 1))
        block[l1 + m1, l2 + m2] = 1.0
        return block

    found: list[tuple[int, str, Array]] = []
    half = math.sqrt(0.5)
    for m in range(l1 + 1):
        for n in range(l2 + 1):
            if m == 0 or n == 0:
                found.append((m + n, "cos", unit(m, n)))
                if m + n > 0:
                    found.append((m + n, "sin", unit(-m, -n)))
                continue
            cc, ss = unit(m, n), unit(-m, -n)
            sc, cs = unit(-m, n), unit(m, -n)
            difference_sine = (sc - cs) * half * (-1.0 if m < n else 1.0)
            found.append((abs(m - n), "cos", (cc + ss) * half))
            found.append((-1, "cos", difference_sine) if m == n else (abs(m - n), "sin", difference_sine))
            found.append((m + n, "cos", (cc - ss) * half))
            found.append((m + n, "sin", (sc + cs) * half))
    return found


@dataclass(frozen=True)
class SiteBasis:
    """Irreps of a symmetric on-site block. Rows: for each group, channel by channel, m = -L..L.

    matrices (n, width^2), orthonormal rows. groups: (L, natural parity?, channels), natural ones first, L ascending.
    shell_pair (n,): first shell * n_shells + second shell (first <= second).
    """

    matrices: Array
    groups: tuple[tuple[int, bool, int], ...]
    shell_pair: NDArray[np.int64]

    @property
    def sizes(self) -> list[int]:
        """Rows of each group."""
        return [channels * (2 * l + 1) for l, _, channels in self.groups]

    @property
    def distinct(self) -> NDArray[np.int64]:
        """For each row, the number of its irrep: the components of one irrep have one rms."""
        repeats = [2 * l + 1 for l, _, channels in self.groups for _ in range(channels)]
        return np.repeat(np.arange(len(repeats)), repeats)

    @property
    def n_scalars(self) -> int:
        """Number of invariant components; they come first."""
        return self.groups[0][2]


def site_basis(shells: tuple[int, ...]) -> SiteBasis:
    """The basis for padded shells of these degrees."""
    starts = shell_starts(shells)
    width = sum(2 * l + 1 for l in shells)
    rows: dict[tuple[int, bool], list[Array]] = {}
    pairs: dict[tuple[int, bool], list[int]] = {}
    for a, l1 in enumerate(shells):
        for b, l2 in enumerate(shells[a:], start=a):
            for big in range(abs(l1 - l2), l1 + l2 + 1):
                if a == b and big % 2 == 1:
                    continue  # antisymmetric within one shell
                coupling = o3.wigner_3j(l1, l2, big, dtype=torch.float64).numpy()
                key = (big, (l1 + l2 + big) % 2 == 0)
                for m in range(2 * big + 1):
                    full: Array = np.zeros((width, width))
                    full[starts[a] : starts[a] + 2 * l1 + 1, starts[b] : starts[b] + 2 * l2 + 1] = coupling[:, :, m]
                    full = full + full.T if a != b else full
                    rows.setdefault(key, []).append(full / np.linalg.norm(full))
                    pairs.setdefault(key, []).append(a * len(shells) + b)
    order = sorted(rows, key=lambda key: (not key[1], key[0]))
    matrices = np.array([block for key in order for block in rows[key]])
    groups = tuple((l, natural, len(rows[l, natural]) // (2 * l + 1)) for l, natural in order)
    shell_pair = np.array([p for key in order for p in pairs[key]])
    return SiteBasis(matrices.reshape(len(matrices), -1), groups, shell_pair)
