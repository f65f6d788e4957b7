"""e3nn's tensor products with weights from outside, exact in whatever precision a model runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from pyscf_tracegrad.o3 import o3


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """e3nn rounds its Wigner-3j symbols to the default dtype, and takes no other."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


class ExactTensorProduct:
    """`e3nn.o3.TensorProduct` without weights of its own: `product(x, y, weights)` in e3nn's layout.

    Every coupling of irreps_in1 with irreps_in2 that rotations and parity allow and irreps_out has, all with weights:
    (weight_numel,) where `shared`, else (n, weight_numel). Kept in float64 and given in the dtype and device of x; as a
    submodule it would stay rounded after a cast, and checkpoints would hold its symbols.
    """

    def __init__(self, irreps_in1: str, irreps_in2: str, irreps_out: str, mode: str, shared: bool) -> None:
        first, second, out = o3.Irreps(irreps_in1), o3.Irreps(irreps_in2), o3.Irreps(irreps_out)
        paths = [
            (i, j, k)
            for i, (_, a) in enumerate(first)
            for j, (_, b) in enumerate(second)
            for k, (_, c) in enumerate(out)
            if c in a * b
        ]
        # The published factor sqrt((2l+1) / number of paths), which e3nn's own normalisation takes the root of.
        instructions = [(*path, mode, True, math.sqrt(out[path[2]].ir.dim / len(paths))) for path in paths]
        with _default_dtype(torch.float64), torch.inference_mode(False):
            self._exact = o3.TensorProduct(
                first, second, out, instructions, internal_weights=False, shared_weights=shared
            )
        self.n_paths = len(paths)
        self.weight_numel: int = self._exact.weight_numel
        self._cast: dict[tuple[torch.dtype, torch.device], Any] = {}

    def __call__(self, x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        key = (x.dtype, x.device)
        if key not in self._cast:
            with torch.inference_mode(False):
                self._cast[key] = copy.deepcopy(self._exact).to(dtype=x.dtype, device=x.device)
        found: Tensor = self._cast[key](x, y, weights)
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> ExactTensorProduct:
        """Itself: it is a constant."""
        return self


@cache
def tensor_product(
    irreps_in1: str, irreps_in2: str, irreps_out: str, mode: Literal["uvu", "uuu"], shared: bool = False
) -> ExactTensorProduct:
    """The product of these irreps (made once: e3nn takes a quarter of a second to write its code)."""
    return ExactTensorProduct(irreps_in1, irreps_in2, irreps_out, mode, shared)
