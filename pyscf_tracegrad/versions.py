"""Which PySCF this was tested with."""

from __future__ import annotations

import re
from typing import Any

import pyscf
from pyscf.lib import logger

NEWEST_PYSCF = (2, 14)  # the one of constraints.txt

_said: list[str] = []  # what this process has been told


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
