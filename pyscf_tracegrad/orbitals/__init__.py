"""Atomic-orbital order and shells: the one place that knows them. Nobody else permutes."""

from pyscf_tracegrad.errors import UnsupportedBasis
from pyscf_tracegrad.orbitals.layout import AOLayout, layout
from pyscf_tracegrad.orbitals.shells import Shell, ShellTable, shells_of_atom

__all__ = ["AOLayout", "Shell", "ShellTable", "UnsupportedBasis", "layout", "shells_of_atom"]
