"""From the network's basis A to the user's basis B.

    S_AA, S_AB    overlaps of the native molecule (the model's basis, real atoms only) with itself and with the user's
    fock          dF_B = X^T dF_A X,  X = S_AA^-1 S_AB: the correction as an operator in the space of A
    density       C_B = S_BB^-1 S_BA C_A for the occupied orbitals, Loewdin-orthonormalised in the metric of B

S_BB is inverted canonically, without its near-dependent directions: PySCF 2.14's own projection of minao explodes for
such bases (2-butyne in 6-311+G(3df,2p) starts at +1715 hartree).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf import gto, lib

from pyscf_tracegrad.density import canonical_orthogonalisation

Array = NDArray[np.float64]

# Eigenvalues of S_BB below this carry nothing of A's space that counts, and amplify rounding errors.
_NEAR_DEPENDENT = 1e-6


def native_molecule(mol: gto.Mole, basis: str) -> gto.Mole:
    """The same nuclei, charge and spin in a model's basis, spherical, without ghost atoms."""
    native = gto.Mole(verbose=0, unit="Bohr", charge=mol.charge, spin=mol.spin, max_memory=mol.max_memory)
    real = [a for a in range(mol.natm) if mol.atom_charge(a) > 0]
    native.atom = [(mol.atom_pure_symbol(a), mol.atom_coord(a)) for a in real]
    native.basis = basis
    return native.build(dump_input=False, parse_arg=False)


def cross_overlap(native: gto.Mole, mol: gto.Mole) -> Array:
    """S_AB (nao of native, nao of mol)."""
    if native.cart == mol.cart:
        return np.asarray(gto.intor_cross("int1e_ovlp_cart" if mol.cart else "int1e_ovlp_sph", native, mol))
    # `intor_cross` wants both spherical or both Cartesian: take both Cartesian and contract the spherical one
    cross = gto.intor_cross("int1e_ovlp_cart", native, mol)
    if mol.cart:
        return np.asarray(native.cart2sph_coeff(normalized="sp").T @ cross)
    return np.asarray(cross @ mol.cart2sph_coeff(normalized="sp"))


def transform_correction(correction: Array, ovlp_native: Array, cross: Array) -> Array:
    """dF (nao, nao) in the user's basis from that in the native one."""
    x = scipy.linalg.solve(ovlp_native, cross, assume_a="pos")
    transformed: Array = x.T @ correction @ x
    return transformed


def project_density(occupied: Array, cross: Array, ovlp: Array) -> Any:
    """Closed-shell density (nao, nao) of projected occupied orbitals (nao of native, nocc), tagged."""
    mo_coeff = project_orbitals(occupied, cross, ovlp)
    return lib.tag_array(2.0 * mo_coeff @ mo_coeff.T, mo_coeff=mo_coeff, mo_occ=np.full(mo_coeff.shape[1], 2.0))


def project_orbitals(occupied: Array, cross: Array, ovlp: Array) -> Array:
    """Orbitals (nao of native, n) projected into the user's basis and orthonormalised symmetrically: (nao of mol, n).

    cross: S_AB; ovlp: S_BB.
    """
    orthogonal = canonical_orthogonalisation(ovlp, _NEAR_DEPENDENT)
    in_orthogonal = orthogonal.T @ (cross.T @ occupied)
    values, vectors = np.linalg.eigh(in_orthogonal.T @ in_orthogonal)
    projected: Array = orthogonal @ (in_orthogonal @ ((vectors / np.sqrt(np.maximum(values, 1e-12))) @ vectors.T))
    return projected
