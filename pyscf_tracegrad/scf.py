"""The only monkey patch: `mf.init_guess = 'tracegrad'`.

`pyscf.scf.hf.SCF.get_init_guess` is the one method that every molecular class passes, whatever it is wrapped in, and
periodic ones too. PySCF runs minao without a word for a key it does not know; the wrapper takes our key before that.
"""

from __future__ import annotations

import functools
from typing import Any

from pyscf.scf import hf

from pyscf_tracegrad.errors import BadMolecule, TracegradError
from pyscf_tracegrad.guess import guess_for_scf, warn_fallback

KEY = "tracegrad"

_MARK = "_tracegrad_original"


def register(strict: bool = False) -> None:
    """Make `init_guess='tracegrad'` (in any case) known to PySCF; again with another `strict` changes only that.

    strict: raise OutsideDomain for calculations that are not covered, instead of a warning and minao. A single call
    overrides it: `mf.get_init_guess(key='tracegrad', strict=True)`.
    """
    unregister()
    original = hf.SCF.get_init_guess

    @functools.wraps(original)
    def get_init_guess(self: Any, mol: Any = None, key: Any = "minao", **keywords: Any) -> Any:
        if not isinstance(key, str) or key.lower() != KEY:
            return original(self, mol, key, **keywords)
        raise_errors = keywords.pop("strict", strict)
        mol = self.mol if mol is None else mol
        try:
            return guess_for_scf(self, mol)
        except TracegradError as error:
            if raise_errors or isinstance(error, BadMolecule):
                raise
            warn_fallback(self, error)
            return original(self, mol, "minao", **keywords)

    setattr(get_init_guess, _MARK, original)
    hf.SCF.get_init_guess = get_init_guess


def unregister() -> None:
    """Give PySCF its own `get_init_guess` back; does nothing where it is not registered."""
    original = getattr(hf.SCF.get_init_guess, _MARK, None)
    if original is not None:
        hf.SCF.get_init_guess = original
