"""Earlier densities as a start: of another geometry, another basis, a checkpoint file, or the same molecule.

From geometry 0 to geometry 1 in one basis orbitals follow their AOs and are orthonormalised symmetrically,

    C_1 = S_1^-1/2 S_0^1/2 C_0        (Loewdin, doi:10.1063/1.1747632),

which keeps the number of electrons and the symmetry; into another basis they are projected, and orthonormalised
without its nearly dependent directions (`transfer.py`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.scf import chkfile, hf

from pyscf_tracegrad.density import Factor, spin_factors
from pyscf_tracegrad.errors import BadInput
from pyscf_tracegrad.transfer import cross_overlap, project_orbitals

Array = NDArray[np.float64]

# Eigenvalues of an overlap below this carry nothing that follows from one geometry to the next.
_NEAR_DEPENDENT = 1e-8


@dataclass(frozen=True)
class Earlier:
    """A density and its molecule. dm: (nao, nao) or (2, nao, nao) in the AOs of mol; mol: None for the very molecule of
    the calculation.
    """

    dm: Any
    mol: gto.Mole | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.dm)
        square = len(shape) in (2, 3) and shape[-1] == shape[-2] and (len(shape) == 2 or shape[0] == 2)
        if not square or (self.mol is not None and shape[-1] != self.mol.nao):
            nao = "nao" if self.mol is None else self.mol.nao
            raise BadInput(f"start: a density is ({nao}, {nao}) or (2, {nao}, {nao}), not {shape}")
        if np.iscomplexobj(self.dm) or not np.isfinite(np.asarray(self.dm)).all():
            raise BadInput("start: the density must be real and finite")

    @classmethod
    def of(cls, start: Any) -> Earlier:
        """From a checkpoint file's path, an SCF object that has run, `(mol, dm)`, or a density of the same molecule.

        Raises BadInput for anything else.
        """
        if isinstance(start, (str, os.PathLike)) and Path(start).is_file():
            return _from_checkpoint(start)
        if isinstance(start, hf.SCF):
            if start.mo_coeff is None:
                raise BadInput("start: this SCF object has not run yet")
            return cls(_collinear(start.make_rdm1(), start.mol), start.mol)
        if isinstance(start, tuple) and len(start) == 2 and isinstance(start[0], gto.MoleBase):
            return cls(_collinear(start[1], start[0]), start[0])
        if isinstance(start, np.ndarray):
            return cls(start)
        raise BadInput(
            "start takes 'auto', 'network', 'reference', 'minao', the path of a checkpoint file, an SCF object, "
            f"(mol, dm) or a density, not {start!r:.80}"
        )

    def carried_to(self, mol: gto.Mole) -> Array:
        """The density in the AOs of a molecule of the same atoms, (nao, nao) or (2, nao, nao).

        Raises BadInput for other atoms, or a density of another shape where no molecule came with it.
        """
        if self.mol is None:
            if np.shape(self.dm)[-1] != mol.nao:
                raise BadInput(
                    f"start: the density has {np.shape(self.dm)[-1]} AOs, this molecule {mol.nao}; give (mol, dm) for "
                    "another basis"
                )
            return np.asarray(self.dm)
        old = self.mol
        if _atoms(old) != _atoms(mol):
            raise BadInput("start: the density is of other atoms, or of another order of them")
        moved = _at(old, mol.atom_coords())
        s_old, s_moved = old.intor_symmetric("int1e_ovlp"), moved.intor_symmetric("int1e_ovlp")
        follow = _power(s_moved, -0.5) @ _power(s_old, 0.5)
        factors = [Factor(follow @ f.orbitals, f.occupations) for f in spin_factors(self.dm, s_old)]
        if not _same_basis(moved, mol):
            cross, overlap = cross_overlap(moved, mol), mol.intor_symmetric("int1e_ovlp")
            factors = [Factor(project_orbitals(f.orbitals, cross, overlap), f.occupations) for f in factors]
        dms = [(f.orbitals * f.occupations) @ f.orbitals.T for f in factors]
        return dms[0] if len(dms) == 1 else np.stack(dms)


def _collinear(dm: Any, mol: gto.Mole) -> Any:
    """Densities of either spin along the axis that the moments of the atoms have in common, of a density of GHF
    (2 nao, 2 nao); any other as it is.
    """
    dm, n = np.asarray(dm), mol.nao
    if dm.ndim != 2 or len(dm) != 2 * n:
        return dm
    aa, ab, ba, bb = dm[:n, :n], dm[:n, n:], dm[n:, :n], dm[n:, n:]
    spins = np.stack([(ab + ba).real, (1j * (ab - ba)).real, (aa - bb).real])
    populations = np.einsum("xpq,qp->xp", spins, mol.intor_symmetric("int1e_ovlp"))
    moments = np.array([populations[:, a:b].sum(1) for a, b in mol.aoslice_by_atom()[:, 2:]])
    axis = np.linalg.svd(moments)[2][0]
    along = np.tensordot(axis if moments.sum(0) @ axis >= 0 else -axis, spins, 1)
    return 0.5 * np.stack([(aa + bb).real + along, (aa + bb).real - along])


def _from_checkpoint(path: Any) -> Earlier:
    try:
        mol, scf = chkfile.load_scf(os.fspath(path))
        mo_coeff, mo_occ = np.asarray(scf["mo_coeff"]), np.asarray(scf["mo_occ"])
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise BadInput(f"start: {path} is no checkpoint file of an SCF ({type(error).__name__}: {error})") from error
    mol.verbose = 0
    if mo_coeff.ndim == 3:
        dm = np.stack([(c * occupied) @ c.T for c, occupied in zip(mo_coeff, mo_occ, strict=True)])
    elif len(mo_coeff) == 2 * mol.nao:
        dm = _collinear((mo_coeff * mo_occ) @ mo_coeff.conj().T, mol)
    elif mol.spin:  # of a restricted open shell: one set of orbitals, those with one electron are alpha
        dm = np.stack([(mo_coeff * occupied) @ mo_coeff.T for occupied in (mo_occ > 0, mo_occ > 1)])
    else:
        dm = (mo_coeff * mo_occ) @ mo_coeff.T
    return Earlier(dm, mol)


def _atoms(mol: gto.Mole) -> list[str]:
    return [gto.mole._std_symbol(mol.atom_pure_symbol(atom)) for atom in range(mol.natm)]


def _at(mol: gto.Mole, coords: Array) -> gto.Mole:
    """The molecule at other coordinates (natm, 3), bohr, whose axes stay."""
    free = mol.copy()
    free.symmetry, free.verbose = False, 0
    return free.set_geom_(coords, unit="Bohr", inplace=False)


def _same_basis(one: gto.Mole, other: gto.Mole) -> bool:
    if one.nao != other.nao or one.cart != other.cart:
        return False
    a, b = one.intor_symmetric("int1e_ovlp"), other.intor_symmetric("int1e_ovlp")
    return np.allclose(a, b, rtol=0, atol=1e-8) and np.allclose(a, cross_overlap(one, other), rtol=0, atol=1e-8)


def _power(overlap: Array, power: float) -> Array:
    values, vectors = np.linalg.eigh(overlap)
    keep = values > _NEAR_DEPENDENT
    return np.asarray((vectors[:, keep] * values[keep] ** power) @ vectors[:, keep].T)
