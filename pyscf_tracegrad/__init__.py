"""A trained equivariant network as SCF initial guess for PySCF.

    import pyscf_tracegrad
    mf = mol.RKS(xc="b3lyp"); mf.init_guess = "tracegrad"; mf.kernel()
    mf.kernel(dm0=pyscf_tracegrad.tracegrad_guess(mol))      # the same, by hand

The pipeline, one file per arrow (`guess.py` is the table of contents):

    molecule -> is it covered            domain.py
    molecule -> graph, AO slots          graph.py, orbitals/
    molecule -> cheap Fock operator      cheapfock.py
    operator -> F_ref, responses G       reference.py
    graph, F_ref, G -> features          standardise.py, layers/, backbones/
    features -> blocks -> dF             blocks.py, block_basis.py, model.py
    F_ref + dF -> density                pretrained.py, density.py
    density -> SCF                       scf.py

torch is imported at the first guess, not here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyscf_tracegrad.errors import OutsideDomain
from pyscf_tracegrad.guess import predict_fock, tracegrad_guess
from pyscf_tracegrad.scf import register, unregister

if TYPE_CHECKING:
    from pyscf_tracegrad.pretrained import load_model

__version__ = "0.1.0"

__all__ = ["OutsideDomain", "load_model", "predict_fock", "register", "tracegrad_guess", "unregister"]


def __getattr__(name: str) -> Any:
    if name == "load_model":  # needs torch
        from pyscf_tracegrad.pretrained import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register()
