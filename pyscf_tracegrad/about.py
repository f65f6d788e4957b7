"""What a report of a problem should say about the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import TextIO

import pyscf
from pyscf import lib

_PACKAGES = ("numpy", "scipy", "torch", "e3nn", "threadpoolctl")
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def versions() -> dict[str, str]:
    """Versions of this package and of what it stands on, and numbers of threads. Imports nothing for it."""
    import pyscf_tracegrad

    found = {"pyscf_tracegrad": pyscf_tracegrad.__version__, "pyscf": pyscf.__version__}
    found |= {name: _installed(name) for name in _PACKAGES}
    found["Python"] = f"{platform.python_version()} ({platform.platform()})"
    found["PySCF's threads"] = f"{lib.num_threads()} of {os.cpu_count()} processors"
    return found | {name: os.environ[name] for name in _VARIABLES if name in os.environ}


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def show_versions(file: TextIO | None = None) -> None:
    """Print `versions()`, one a line: what a report of a problem should contain. file: standard output if not given."""
    found = versions()
    width = max(map(len, found))
    (file or sys.stdout).writelines(f"{name:{width}}  {value}\n" for name, value in found.items())
