"""Is this calculation inside the domain of the guess, and if not, why.

Three questions: can anything be started from this molecule (`check_molecule`), is this kind of SCF object served
(`check_scf`, `check_overlap`), and may the network answer or only F_ref (`check_network`). Elements and shells are not
checked here: they depend on the model and are refused by `orbitals.layout`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.data import nist
from pyscf.scf import dhf, ghf, hf, uhf

from pyscf_tracegrad.errors import BadMolecule, OutsideDomain

# Nuclei nearer than this (bohr) are one place for the network, which has seen no such molecule ...
_SAME_PLACE = 0.1
# ... and nearer than this for PySCF too: the overlap matrix is singular, and minao fails on it.
_COINCIDENT = 1e-6


def check_molecule(mol: gto.Mole) -> None:
    """Refuse a molecule that no guess but a core Hamiltonian's can start from.

    Raises OutsideDomain for a periodic cell, no atoms, or no electrons; BadMolecule for a molecule that is not built,
    or with nuclei at one place or without finite coordinates.
    """
    if _is_periodic(mol):
        raise OutsideDomain("periodic systems are not covered")
    if not getattr(mol, "_built", False):
        raise BadMolecule("the molecule is not built; call mol.build() first")
    if mol.natm == 0:
        raise OutsideDomain("the molecule has no atoms")
    _check_positions(mol, _COINCIDENT, BadMolecule)
    if mol.nelectron == 0:
        raise OutsideDomain("the molecule has no electrons")


def check_network(mol: gto.Mole) -> None:
    """Refuse what no network of this package covers, whatever its elements; F_ref serves these.

    Raises OutsideDomain for effective core potentials, altered nuclear charges, no nuclei at all, open shells, and
    nuclei so close that no training set has the like.
    """
    if mol.has_ecp():
        raise OutsideDomain("the network does not know effective core potentials")
    if not _real_atoms(mol):
        raise OutsideDomain("the network does not know a molecule without nuclei")
    for atom in _real_atoms(mol):
        charge, symbol = mol.atom_charge(atom), mol.atom_symbol(atom)
        if charge != gto.charge(symbol):
            raise OutsideDomain(f"the network does not know a nuclear charge of {charge:g} (atom {atom}, {symbol})")
    if mol.nelectron % 2 or mol.spin != 0:
        raise OutsideDomain(f"the network does not know open shells ({mol.nelectron} electrons, spin {mol.spin})")
    _check_positions(mol, _SAME_PLACE, OutsideDomain)


def _is_periodic(mol: gto.Mole) -> bool:
    # of the class: PySCF imports all of itself to look up an attribute that an object lacks
    return hasattr(type(mol), "lattice_vectors")


def _real_atoms(mol: gto.Mole) -> list[int]:
    return [atom for atom in range(mol.natm) if mol.atom_charge(atom) != 0]


def _check_positions(mol: gto.Mole, nearest: float, error: type[OutsideDomain]) -> None:
    real = _real_atoms(mol)  # a ghost may stand where it will
    positions = mol.atom_coords()[real]
    if not np.isfinite(positions).all():
        bad = real[int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])]
        raise BadMolecule(f"atom {bad} ({mol.atom_symbol(bad)}) has no finite coordinates")
    first, second = np.triu_indices(len(real), 1)
    distances = np.linalg.norm(positions[first] - positions[second], axis=1)
    close = np.flatnonzero(distances < nearest)
    if len(close):
        i, j = real[int(first[close[0]])], real[int(second[close[0]])]
        apart = distances[close[0]] * nist.BOHR
        where = "at one place" if apart < 1e-5 else f"{apart:.2g} angstrom apart"
        raise error(f"atoms {i} ({mol.atom_symbol(i)}) and {j} ({mol.atom_symbol(j)}) are {where}")


def check_scf(mf: Any) -> None:
    """Refuse an SCF object that is none of RHF, ROHF, UHF, GHF and their Kohn-Sham kinds, in whatever wrapping.

    Raises OutsideDomain with the reason for periodic, four- and two-component ones.
    """
    if _is_periodic(mf.mol):
        raise OutsideDomain("periodic systems are not covered")
    if isinstance(mf, dhf.DHF):
        raise OutsideDomain("four-component methods (DHF, DKS) are not covered")
    if not isinstance(mf, (hf.RHF, uhf.UHF, ghf.GHF)):  # ROHF is an RHF
        raise OutsideDomain(f"{type(mf).__module__}.{type(mf).__name__} is none of RHF, ROHF, UHF and GHF")
    smeared = getattr(mf, "sigma", None) and getattr(mf, "smearing_method", None)  # so PySCF makes an ROHF smeared
    if isinstance(mf, hf.RHF) and not hasattr(mf, "nelec") and mf.mol.spin != 0 and not smeared:
        raise OutsideDomain(f"{type(mf).__name__} does not take an open shell (spin {mf.mol.spin})")


def check_overlap(mf: Any, mol: gto.Mole) -> None:
    """Refuse an SCF object whose overlap is not that of the molecule's AOs, such as a model Hamiltonian.

    Raises OutsideDomain.
    """
    expected = mol.intor_symmetric("int1e_ovlp")
    ovlp = np.asarray(mf.get_ovlp(mol))
    n = len(expected)
    blocks = [ovlp] if not isinstance(mf, ghf.GHF) else [ovlp[:n, :n], ovlp[n:, n:]]
    if not all(b.shape == expected.shape and np.allclose(b, expected, rtol=0, atol=1e-8) for b in blocks):
        raise OutsideDomain(f"{type(mf).__name__} does not work in the basis of its molecule")


def check_density(dm: NDArray[np.float64], shape: tuple[int, ...]) -> None:
    """Make sure of the shape and finite numbers: PySCF's C code does not check, and can corrupt memory.

    Raises OutsideDomain.
    """
    if np.shape(dm) != shape:
        raise OutsideDomain(f"the guess has shape {np.shape(dm)}, this calculation needs {shape}")
    if not np.isfinite(dm).all():
        raise OutsideDomain("the guess is not finite")
