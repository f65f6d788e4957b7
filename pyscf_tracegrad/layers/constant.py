"""Constants that must be exact in whatever precision a model runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Constant:
    """A float64 array that takes the dtype and device of what it is used with: `constant(like)`.

    A buffer would be rounded when a model is made in float32, and stay rounded after a cast to float64.
    """

    def __init__(self, values: Any) -> None:
        self._exact = torch.as_tensor(values, dtype=torch.float64)
        self._cast: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, like: Tensor) -> Tensor:
        key = (like.dtype, like.device)
        if key not in self._cast:
            with torch.inference_mode(False):  # a tensor made in inference mode could not be trained with later
                self._cast[key] = self._exact.to(dtype=like.dtype, device=like.device)
        return self._cast[key]
