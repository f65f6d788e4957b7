"""`from pyscf import tracegrad`: the names of pyscf_tracegrad, where PySCF's other extensions are.

No copies of them: each is looked up in pyscf_tracegrad when it is used, so that what is lazy there is lazy here. Its
modules, such as `pyscf.tracegrad.gate`, are those of pyscf_tracegrad under another name.
"""

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import pyscf_tracegrad

__all__ = pyscf_tracegrad.__all__


class _Alias:
    """Finder and loader of `pyscf.tracegrad.NAME`: the module `pyscf_tracegrad.NAME` itself, not a copy."""

    def __init__(self, found: ModuleSpec) -> None:
        self._found = found

    @classmethod
    def find_spec(cls, name: str, *_: Any) -> ModuleSpec | None:
        if not name.startswith(f"{__name__}."):
            return None
        found = importlib.util.find_spec(pyscf_tracegrad.__name__ + name.removeprefix(__name__))
        return None if found is None else ModuleSpec(name, cls(found))

    def create_module(self, _: ModuleSpec) -> ModuleType:
        return importlib.import_module(self._found.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._found  # the import system has put that of the alias there


sys.meta_path.insert(0, _Alias)  # type: ignore[arg-type]


def __getattr__(name: str) -> Any:
    return getattr(pyscf_tracegrad, name)


def __dir__() -> list[str]:
    return dir(pyscf_tracegrad)
