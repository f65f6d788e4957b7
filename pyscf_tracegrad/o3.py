"""e3nn's `o3`, imported without torch's compiler: `from pyscf_tracegrad.o3 import o3`.

e3nn decorates a function by `torch.compiler.disable`, which imports all of `torch._dynamo`: 1.5 of the 2.4 seconds of
processor time from `import torch` to a loaded model, for something that matters only to who compiles e3nn's functions.
Here that decorator waits until the function is called and the compiler is there.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


def _disable_late(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return call


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Until it ends `torch.compiler.disable` imports nothing."""
    if "torch._dynamo" in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    torch.compiler.disable = _disable_late  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable


with _without_compiler():
    from e3nn import o3

__all__ = ["o3"]
