"""Features with irreps of both parities: their rows, and the way to e3nn's layout and back.

Features have shape (n, rows, channels), as in `degrees`: the irreps of natural parity (-1)^l first, l = 0..l_max, then
those of unnatural parity; within an irrep m = -l..l. e3nn's layout is (n, dim): irrep by irrep, channel by channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyscf_tracegrad.layers.norm import EquivariantNorm
from pyscf_tracegrad.o3 import o3


@dataclass(frozen=True)
class Rows:
    """Irreps of a feature: every natural one up to l_max, and the unnatural ones of these degrees (1 to l_max)."""

    l_max: int
    unnatural: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if any(not 1 <= l <= self.l_max for l in self.unnatural):
            raise ValueError(f"irreps of degree {self.unnatural} do not fit features with l_max = {self.l_max}")

    @property
    def irreps(self) -> tuple[tuple[int, int], ...]:
        """(l, parity) of each irrep, in the order of the rows."""
        natural = tuple((l, (-1) ** l) for l in range(self.l_max + 1))
        return natural + tuple((l, -((-1) ** l)) for l in self.unnatural)

    @property
    def sizes(self) -> list[int]:
        """Rows of each irrep."""
        return [2 * l + 1 for l, _ in self.irreps]

    @property
    def total(self) -> int:
        """Number of rows."""
        return sum(self.sizes)

    @property
    def degree_of_row(self) -> list[int]:
        """l of each row."""
        return [l for l, _ in self.irreps for _ in range(2 * l + 1)]

    def with_channels(self, channels: int) -> o3.Irreps:
        """e3nn's name for a feature with these rows."""
        return o3.Irreps([(channels, irrep) for irrep in self.irreps])

    def to_e3nn(self, x: Tensor) -> Tensor:
        """(n, rows, channels) -> e3nn's (n, rows * channels)."""
        return torch.cat([part.transpose(1, 2).flatten(1) for part in x.split(self.sizes, 1)], 1)

    def from_e3nn(self, x: Tensor) -> Tensor:
        """e3nn's (n, rows * channels) -> (n, rows, channels)."""
        channels = x.shape[1] // self.total
        parts = x.split([channels * size for size in self.sizes], 1)
        shaped = [part.view(-1, channels, size) for part, size in zip(parts, self.sizes, strict=True)]
        return torch.cat([part.transpose(1, 2) for part in shaped], 1)


def degree_sums(rows: Rows) -> Tensor:
    """Zeros and ones (l_max, total - 1), float64, that sum the rows of each degree above 0, of either parity."""
    of_row = torch.tensor(rows.degree_of_row[1:])
    return (of_row[None, :] == torch.arange(1, rows.l_max + 1)[:, None]).double()


class IrrepsNorm(EquivariantNorm):
    """`EquivariantNorm` for features with irreps of both parities: every irrep counts alike and has its own scale."""

    def __init__(self, rows: Rows, channels: int) -> None:
        super().__init__(rows.l_max, channels)
        self.irreps_in = self.irreps_out = rows.with_channels(channels)
        irrep_of_row = [k for k, size in enumerate(rows.sizes) for _ in range(size)]
        self.scale = torch.nn.Parameter(torch.ones(len(rows.irreps), channels))
        self.of_row = torch.tensor(irrep_of_row)
        self.weights = torch.tensor([1.0 / (len(rows.irreps) * (2 * l + 1)) for l in rows.degree_of_row])
