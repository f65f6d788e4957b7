"""Count the cycles of an SCF from a given density: at PySCF's default settings, or cheaper to compare models."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto

from training.labels import Label

Array = NDArray[np.float64]

# How cycles are counted: `exact` is PySCF's defaults, `fitted` has density-fitted J/K and a level-1 grid and takes a
# half to a quarter of the time, `none` runs no SCF.
Scf = Literal["exact", "fitted", "none"]
SCF_CHOICES: tuple[Scf, ...] = get_args(Scf)


class ScfRun(NamedTuple):
    """What an SCF did: cycles (`mf.cycles`, so Fock builds less 2), whether it converged, energy in hartree."""

    cycles: int
    converged: bool
    energy: float


NOT_RUN = ScfRun(-1, False, float("nan"))


def make_mf(mol: gto.Mole, xc: str, scf: Scf = "exact") -> Any:
    """Fresh restricted Kohn-Sham object. Raises ValueError for anything but `exact` and `fitted`."""
    mf = dft.RKS(mol, xc=xc)
    if scf == "exact":
        return mf
    if scf == "fitted":
        mf = mf.density_fit()
        mf.grids.level = 1
        return mf
    raise ValueError(f"an SCF is 'exact' or 'fitted', not {scf!r}")


def count_cycles(mol: gto.Mole, xc: str, dm0: Array, scf: Scf = "exact") -> ScfRun:
    """Run an SCF from a density (nao, nao)."""
    mf = make_mf(mol, xc, scf)
    energy = mf.kernel(dm0=dm0)
    return ScfRun(int(mf.cycles), bool(mf.converged), float(energy))


def minao_run(label: Label, mol: gto.Mole, xc: str, scf: Scf = "exact") -> ScfRun:
    """The SCF from minao that a guess is compared with; run once per molecule and functional, whatever the models.

    `exact`: that of the label file where it was run there (energy: the label's), else it is run. `fitted` is always
    run: cycles of two kinds of SCF must not be compared. `none`: what the label file says.
    """
    known = ScfRun(label.cycles_minao, True, label.energy)
    if scf == "none" or (scf == "exact" and label.cycles_minao >= 0):
        return known
    return count_cycles(mol, xc, make_mf(mol, xc, scf).get_init_guess(mol, "minao"), scf)
