"""The reaction field of a polarisable continuum in the cheap operator.

PySCF's PCM evaluates three-centre integrals between every AO pair and every surface point in each Fock build, which
costs several times what the rest of the build does. Here the potential of the density on the surface comes from its
fitted density, and the potential of the surface charges in the AO basis from the same fit. With the three-centre
integrals L_Q = J^-1/2 (P|mn) of density fitting, r_Q = (L_Q|D), W = J^-1/2 (P|g), nuclear potential v_n, and the
charges q = A (v_n - W^T r) of `pyscf.solvent.pcm.PCM._get_vind`, A = (K^-1 R + (K^-1 R)^T) / 2:

    V = -sum_Q L_Q (W q)_Q = sum_Q L_Q (M r - c)_Q,     M = W A W^T,  c = W A v_n

so the whole solvent is one small matrix M (n_aux, n_aux) per molecule, and its energy, but for the part of the nuclei
alone, r^T M r / 2 - c^T r. The exact correction removes the fitting error.

ddCOSMO, whose equations have another form, is represented by conductor-like PCM of the same dielectric constant.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pyscf import df, gto, lib

if TYPE_CHECKING:
    from pyscf.solvent import pcm

Array = NDArray[np.float64]


class ReactionField:
    """V_solvent[D] of one molecule by the fitted density.

    solvent: PySCF's PCM (SMD is one), built here if it is not. with_df: built three-centre integrals of the same
    molecule. Raises numpy.linalg.LinAlgError where the fitting basis is linearly dependent.
    """

    def __init__(self, solvent: pcm.PCM, with_df: df.DF) -> None:
        if not solvent._intermediates:
            solvent.build()
        self.with_df = with_df
        mol, surface = solvent.mol, solvent.surface
        charges = gto.fakemol_for_charges(surface["grid_coords"], expnt=surface["charge_exp"] ** 2)
        charges.cart = mol.cart
        auxmol = with_df.auxmol
        integral = mol._add_suffix("int2c2e")
        factor = scipy.linalg.cholesky(auxmol.intor(integral, hermi=1), lower=True)
        if len(factor) != with_df.get_naoaux():
            raise np.linalg.LinAlgError("the fitting basis has been orthogonalised canonically")
        w = scipy.linalg.solve_triangular(factor, gto.intor_cross(integral, auxmol, charges), lower=True)
        k, r = solvent._intermediates["K"], solvent._intermediates["R"]
        lu = scipy.linalg.lu_factor(k)
        wa = 0.5 * (scipy.linalg.lu_solve(lu, w.T, trans=1).T @ r + scipy.linalg.lu_solve(lu, r @ w.T).T)
        self._matrix: Array = wa @ w.T
        self._constant: Array = wa @ solvent.v_grids_n

    def __call__(self, dm: Array) -> tuple[Array, float]:
        """V_solvent (nao, nao) and the energy that it is the derivative of, hartree, of a density (nao, nao), the sum
        of both spins.
        """
        packed = lib.pack_tril(dm + dm.T - np.diag(np.diag(dm)))  # off-diagonal elements count twice
        fitted = np.concatenate([block @ packed for block in self.with_df.loop()])
        response = self._matrix @ fitted
        energy = float(fitted @ (0.5 * response - self._constant))
        charges = response - self._constant
        start, total = 0, np.zeros_like(packed)
        for block in self.with_df.loop():
            total += charges[start : start + len(block)] @ block
            start += len(block)
        return lib.unpack_tril(total), energy


def reaction_field(mf: Any, with_df: Any) -> ReactionField | None:
    """Reaction field of an SCF object's solvent.

    None where it has none that responds or none that is known here, and without three-centre integrals.
    """
    solvent = getattr(mf, "with_solvent", None)
    if solvent is None or getattr(solvent, "frozen", False) or not isinstance(with_df, df.DF):
        return None
    from pyscf.solvent import ddcosmo, pcm  # PySCF loads it only where there is a solvent, and so do we

    if isinstance(solvent, ddcosmo.DDCOSMO):
        stand_in = pcm.PCM(solvent.mol)
        stand_in.eps, stand_in.method, stand_in.verbose = solvent.eps, "C-PCM", 0
        solvent = stand_in
    if not isinstance(solvent, pcm.PCM):
        return None
    try:
        return ReactionField(solvent, with_df)
    except np.linalg.LinAlgError:
        return None
