"""Is the level of theory of a set possible for its molecules? Asked before any work starts."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import numpy as np
from pyscf import dft, gto
from pyscf.data import elements

from data.errors import SetFileError
from data.settings import TheoryLevel
from data.structure import Seed


def elements_of(seed: Seed) -> set[str]:
    """Symbols of the elements of a molecule, hydrogens that a SMILES implies included."""
    if seed.structure is not None:
        return {elements.ELEMENTS[int(z)] for z in seed.structure.atomic_numbers}
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        molecule = Chem.AddHs(Chem.MolFromSmiles(seed.smiles))
    return {atom.GetSymbol() for atom in molecule.GetAtoms()}


def check_theory(theory: TheoryLevel, seeds: Sequence[Seed]) -> None:
    """Raises SetFileError for a functional or basis that PySCF does not know, and for elements it does not cover.

    A basis that goes with an effective core potential is refused: label files of version 1 have no place for it.
    """
    _check_functional(theory.xc)
    for symbol in sorted(set().union(*map(elements_of, seeds))):
        if not _has_functions(theory.basis, symbol):
            raise SetFileError(
                f"theory.basis {theory.basis!r} has no functions for {symbol}, or is not a basis that PySCF knows"
            )
        if _needs_ecp(theory.basis, symbol):
            raise SetFileError(
                f"theory.basis {theory.basis!r} goes with an effective core potential for {symbol}; label files hold "
                "all-electron labels only. Leave such molecules out, or choose an all-electron basis"
            )


@functools.cache  # every label asks
def _check_functional(xc: str) -> None:
    if xc.lower() == "hf":
        return
    helium = gto.M(atom="He", basis="sto-3g", verbose=0)
    try:  # one build tells more than the name: a Laplacian, or a dispersion correction that is not installed
        dft.RKS(helium, xc=xc).energy_tot(np.array([[2.0]]))
    except (AttributeError, ImportError, KeyError, RuntimeError, TypeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise SetFileError(f"theory.xc {xc!r} is not a functional that PySCF can use here ({text})") from None


def _has_functions(basis: str, symbol: str) -> bool:
    try:
        with warnings.catch_warnings():  # PySCF recommends a package where it does not find a basis
            warnings.simplefilter("ignore")
            return bool(gto.basis.load(basis, symbol))
    except (AssertionError, KeyError, RuntimeError, OSError, ValueError):
        return False


def _needs_ecp(basis: str, symbol: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(gto.basis.load_ecp(basis, symbol))
    except (KeyError, RuntimeError, OSError, ValueError):
        return False
