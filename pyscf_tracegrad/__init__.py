"""A trained equivariant network as SCF initial guess for PySCF.

    import pyscf_tracegrad
    mf = mol.RKS(xc="b3lyp"); mf.init_guess = "tracegrad"; mf.kernel()
    mf.kernel(dm0=pyscf_tracegrad.tracegrad_guess(mf))       # the same, by hand

The pipeline, one file per arrow (`guess.py` is the table of contents):

    calculation -> is it covered            domain.py
    calculation -> matrices, occupations    calculation.py
    molecule -> graph, AO slots             graph.py, orbitals/
    molecule -> cheap Fock operator         cheapfock.py, gridxc.py, reaction.py
    operator -> F_ref, responses G          reference.py
    graph, F_ref, G -> features             standardise.py, layers/, backbones/
    features -> blocks -> dF                blocks.py, block_basis.py, model.py, pretrained.py
    dF -> is it trusted                     gate.py
    dF -> another basis or functional       transfer.py, starts.py
    F -> cheap cycles, exact correction     refine.py, cycles.py
    signs of another state -> the lower one states.py, twin.py; will it stay: handover.py
    spins, fragments, an earlier density    spins.py, earlier.py
    density -> SCF                          scf.py; what happened: report.py; what failed: failures.py

Which model answers is in models.py. torch is imported at the first guess that asks the network, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from pyscf_tracegrad.about import show_versions
from pyscf_tracegrad.errors import OutsideDomain
from pyscf_tracegrad.guess import predict_fock, tracegrad_guess
from pyscf_tracegrad.report import GuessReport
from pyscf_tracegrad.scf import register, set_default, unregister, unset_default

if _TYPE_CHECKING:
    from pyscf_tracegrad.pretrained import load_model

__version__ = "0.1.0"

__all__ = [
    "GuessReport",
    "OutsideDomain",
    "load_model",
    "predict_fock",
    "register",
    "set_default",
    "show_versions",
    "tracegrad_guess",
    "unregister",
    "unset_default",
]


def __getattr__(name: str) -> _Any:
    if name == "load_model":  # needs torch
        from pyscf_tracegrad.pretrained import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__file__", "__name__", "__path__", "__version__"]


register()
