"""Is this calculation inside the domain of the guess, and if not, why.

Elements and shells are not checked here: they depend on the model and are refused by `orbitals.layout`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.scf import dhf, ghf, hf, rohf, uhf

from pyscf_tracegrad.errors import BadMolecule, OutsideDomain

# Nuclei nearer than this (bohr) are one place for the network, which has seen no such molecule ...
_SAME_PLACE = 0.1
# ... and nearer than this for PySCF too: the overlap matrix is singular, and minao fails on it.
_COINCIDENT = 1e-6


def check_molecule(mol: gto.Mole) -> None:
    """Refuse what no model covers yet, whatever its elements.

    Raises OutsideDomain for a molecule that is not built, without atoms, periodic, with ghost atoms or ECPs, with an
    open shell, or with nuclei at one place or without finite coordinates.
    """
    if _is_periodic(mol):
        raise OutsideDomain("periodic systems are not covered")
    if not getattr(mol, "_built", False):
        raise BadMolecule("the molecule is not built; call mol.build() first")
    if mol.natm == 0:
        raise OutsideDomain("the molecule has no atoms")
    _check_nuclei(mol)
    if mol.nelectron == 0:
        raise OutsideDomain("the molecule has no electrons")
    if mol.nelectron % 2 or mol.spin != 0:
        raise OutsideDomain(f"open shells are not covered ({mol.nelectron} electrons, spin {mol.spin})")
    _check_positions(mol)


def _is_periodic(mol: gto.Mole) -> bool:
    # of the class: PySCF imports all of itself to look up an attribute that an object lacks
    return hasattr(type(mol), "lattice_vectors")


def _check_nuclei(mol: gto.Mole) -> None:
    ghosts = [a for a in range(mol.natm) if mol.atom_charge(a) == 0]
    if ghosts:
        raise OutsideDomain(f"atom {ghosts[0]} ({mol.atom_symbol(ghosts[0])}) is a ghost atom; ghosts are not covered")
    if mol.has_ecp():
        raise OutsideDomain("effective core potentials are not covered")
    for atom, charge in enumerate(mol.atom_charges()):
        if charge != gto.charge(mol.atom_symbol(atom)):
            raise OutsideDomain(
                f"atom {atom} ({mol.atom_symbol(atom)}) has a nuclear charge of {charge:g}; "
                "point charges and altered nuclei are not covered"
            )


def _check_positions(mol: gto.Mole) -> None:
    positions = mol.atom_coords()
    if not np.isfinite(positions).all():
        bad = int(np.flatnonzero(~np.isfinite(positions).all(axis=1))[0])
        raise BadMolecule(f"atom {bad} ({mol.atom_symbol(bad)}) has no finite coordinates")
    first, second = np.triu_indices(mol.natm, 1)
    close = np.flatnonzero(np.linalg.norm(positions[first] - positions[second], axis=1) < _SAME_PLACE)
    if len(close):
        i, j = int(first[close[0]]), int(second[close[0]])
        reason = f"atoms {i} ({mol.atom_symbol(i)}) and {j} ({mol.atom_symbol(j)}) are at one place"
        coincident = np.linalg.norm(positions[i] - positions[j]) < _COINCIDENT
        raise BadMolecule(reason) if coincident else OutsideDomain(reason)


def check_scf(mf: Any) -> None:
    """Refuse an SCF object that is not restricted, closed-shell RHF or RKS, with or without density fitting.

    Wrapped objects (symmetry, newton, solvent, scalar x2c) are RHF or RKS too, and start from the same density. Raises
    OutsideDomain with the reason.
    """
    if _is_periodic(mf.mol):
        raise OutsideDomain("periodic systems are not covered")
    names = (
        (dhf.DHF, "four-component methods"),
        (ghf.GHF, "generalised methods (GHF, GKS)"),
        (uhf.UHF, "unrestricted methods (UHF, UKS)"),
        (rohf.ROHF, "restricted open-shell methods (ROHF, ROKS)"),
    )
    for kind, name in names:
        if isinstance(mf, kind):
            raise OutsideDomain(f"{name} are not covered")
    if not isinstance(mf, hf.RHF):
        raise OutsideDomain(f"{type(mf).__name__} is neither RHF nor RKS")


def check_overlap(mf: Any, mol: gto.Mole) -> None:
    """Refuse an SCF object whose overlap is not that of the molecule's AOs, such as a model Hamiltonian.

    Raises OutsideDomain.
    """
    ovlp, expected = mf.get_ovlp(mol), mol.intor_symmetric("int1e_ovlp")
    if np.shape(ovlp) != expected.shape or not np.allclose(ovlp, expected, rtol=0, atol=1e-8):
        raise OutsideDomain(f"{type(mf).__name__} does not work in the basis of its molecule")


def check_density(dm: NDArray[np.float64], nao: int) -> None:
    """Make sure of shape (nao, nao) and finite numbers: PySCF's C code does not check, and can corrupt memory.

    Raises OutsideDomain.
    """
    if np.shape(dm) != (nao, nao):
        raise OutsideDomain(f"the guess has shape {np.shape(dm)}, this calculation needs ({nao}, {nao})")
    if not np.isfinite(dm).all():
        raise OutsideDomain("the guess is not finite")
