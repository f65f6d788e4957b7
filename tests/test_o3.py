"""e3nn comes without torch's compiler, and works with it where it is there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from pyscf_tracegrad.o3 import _disable_late, _without_compiler


@pytest.mark.skipif(version("e3nn").startswith("0.5"), reason="e3nn 0.5 imports the compiler by itself")
def test_a_loaded_model_has_not_imported_the_compiler() -> None:
    code = """
import sys, torch
disable = torch.compiler.disable
import pyscf_tracegrad
pyscf_tracegrad.load_model()
assert "e3nn.o3" in sys.modules
assert "torch._dynamo" not in sys.modules, "torch._dynamo was imported"
assert torch.compiler.disable is disable
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_decorator_is_put_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    disable = torch.compiler.disable
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    with contextlib.suppress(ImportError), _without_compiler():
        assert torch.compiler.disable is _disable_late
        raise ImportError
    assert torch.compiler.disable is disable


def test_late_decorator_calls_the_function_with_and_without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []

    @_disable_late
    def double(x: int, times: int = 2) -> int:
        """Doc."""
        return times * x

    def record(function: object) -> object:
        called.append(function)
        return function

    assert double.__name__ == "double"
    monkeypatch.setattr(torch.compiler, "disable", record)
    monkeypatch.delitem(sys.modules, "torch._dynamo", raising=False)
    assert double(3, times=3) == 9
    assert not called
    monkeypatch.setitem(sys.modules, "torch._dynamo", torch)
    assert double(3) == 6
    assert len(called) == 1
