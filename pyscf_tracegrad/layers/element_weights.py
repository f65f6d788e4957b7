"""Hyper-network: weights of a decoder from the embeddings of an element, or of an ordered pair of elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyscf_tracegrad.layers.linear import mlp

# Where a tensor lies and how often it was written to: what cached weights were made from.
_State = tuple[tuple[int, int, torch.dtype, torch.device], ...]


def _state(tensors: list[Tensor]) -> _State | None:
    """None where torch does not count the changes (tensors made in inference mode)."""
    if any(t.is_inference() for t in tensors):
        return None
    return tuple((t.data_ptr(), t._version, t.dtype, t.device) for t in tensors)


@dataclass(frozen=True)
class _Kept:
    """Rows of weights by kind, what they were made from, and the memory of that, so that no other tensor gets it."""

    state: _State
    memory: list[Tensor]
    rows: dict[int, Tensor]


class ElementWeights(nn.Module):
    """Decoder weights and biases (n, n_weights + n_biases) of blocks whose atoms have the elements (n, ends).

    Computed once per element (ends = 1) or ordered pair of elements (ends = 2) that occurs. In evaluation without
    gradients they are kept for the next call, until `train()` or a change of the parameters that made them. They start
    at zero: an untrained model predicts F_ref, or the mean correction of its training set.
    """

    def __init__(self, ends: int, channels: int, n_weights: int, n_biases: int) -> None:
        super().__init__()
        self.ends = ends
        self.weights = mlp(ends * channels, channels, n_weights)
        self.biases = mlp(ends * channels, channels, n_biases)
        for last in (self.weights[-1], self.biases[-1]):
            for parameter in last.parameters():
                nn.init.zeros_(parameter)
        self._kept: _Kept | None = None

    def forward(self, embedding: Tensor, elements: Tensor) -> Tensor:
        """embedding (n_elements, channels), elements (n, ends)."""
        base = len(embedding) ** torch.arange(self.ends, device=elements.device)
        kinds, place = torch.unique((elements * base).sum(1), return_inverse=True)
        if self.training or torch.is_grad_enabled():
            return self._table(embedding, kinds).index_select(0, place)
        return self._remembered(embedding, kinds).index_select(0, place)

    def _table(self, embedding: Tensor, kinds: Tensor) -> Tensor:
        ends = [kinds // len(embedding) ** k % len(embedding) for k in range(self.ends)]
        both = torch.cat([embedding.index_select(0, end) for end in ends], 1)
        return torch.cat([self.weights(both), self.biases(both)], 1)

    def _remembered(self, embedding: Tensor, kinds: Tensor) -> Tensor:
        state = _state([embedding, *self.parameters()])
        if state is None:
            return self._table(embedding, kinds)
        if self._kept is None or self._kept.state != state:
            self._kept = _Kept(state, [p.detach() for p in (embedding, *self.parameters())], {})
        known = self._kept.rows
        wanted: list[int] = kinds.tolist()
        missing = [kind for kind in wanted if kind not in known]
        if missing or not wanted:
            with torch.inference_mode(False), torch.no_grad():  # a row may be used outside of inference mode later
                table = self._table(embedding, torch.tensor(missing, dtype=torch.long, device=kinds.device))
            known.update(zip(missing, table.unbind(0), strict=True))
            if not wanted:
                return table
        return torch.stack([known[kind] for kind in wanted])

    def train(self, mode: bool = True) -> ElementWeights:
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and files go without what is kept."""
        return {**self.__dict__, "_kept": None}
