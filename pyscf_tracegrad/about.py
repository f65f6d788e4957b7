"""Which versions there are, what a report of a problem should say of them, and which were tested."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
from typing import Any, TextIO

import pyscf
from pyscf import lib
from pyscf.lib import logger

NEWEST_PYSCF = (2, 14)  # the one of constraints.txt

_said: list[str] = []  # what this process has been told

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


def mention_new_pyscf(mf: Any) -> None:
    """Warn through PySCF's logger, once in a process, of a PySCF that is newer than any tested."""
    if _said or mf.verbose < logger.WARN or not newer_than_tested(pyscf.__version__):
        return
    _said.append(pyscf.__version__)
    logger.warn(
        mf,
        "tracegrad guess: PySCF %s is newer than %d.%d, the newest that pyscf_tracegrad was tested with. "
        "Look for a newer pyscf_tracegrad if guesses fail.",
        pyscf.__version__,
        *NEWEST_PYSCF,
    )


def newer_than_tested(version: str) -> bool:
    """Whether a version of PySCF, such as `2.14.0`, belongs to a later series; False for one that is no number."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return found is not None and (int(found[1]), int(found[2])) > NEWEST_PYSCF
