"""`from pyscf import tracegrad`: the names of pyscf_tracegrad, where PySCF's other extensions are.

No copies of them: each is looked up in pyscf_tracegrad when it is used, so that what is lazy there is lazy here.
"""

from typing import Any

import pyscf_tracegrad

__all__ = pyscf_tracegrad.__all__


def __getattr__(name: str) -> Any:
    return getattr(pyscf_tracegrad, name)


def __dir__() -> list[str]:
    return dir(pyscf_tracegrad)
