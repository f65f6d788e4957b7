"""Count the cycles of an SCF from a given density: at PySCF's default settings, or cheaper to compare models."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto

from training.labels import Label

Array = NDArray[np.float64]

# How cycles are counted: `exact` is PySCF's defaults; `fitted` has density-fitted J/K and a level-1 grid and takes a
# half to a quarter of the time; `coarse` has a level-0 grid and takes a fifth. Their converged matrices have ov errors
# of 4e-6 and 6e-5 against `exact`, so that `coarse` can tell models apart whose own errors are well above 1e-4.
# `none`: no SCF.
Scf = Literal["exact", "fitted", "coarse", "none"]
SCF_CHOICES: tuple[Scf, ...] = get_args(Scf)
_GRID_LEVELS = {"fitted": 1, "coarse": 0}


class ScfRun(NamedTuple):
    """What an SCF did: cycles (`mf.cycles`, so Fock builds less 2), whether it converged, energy in hartree."""

    cycles: int
    converged: bool
    energy: float


NOT_RUN = ScfRun(-1, False, float("nan"))


def make_mf(mol: gto.Mole, xc: str, scf: Scf = "exact") -> Any:
    """Fresh restricted Kohn-Sham object. Raises ValueError for `none` and anything unknown."""
    mf = dft.RKS(mol, xc=xc)
    if scf == "exact":
        return mf
    if scf in _GRID_LEVELS:
        mf = mf.density_fit()
        mf.grids.level = _GRID_LEVELS[scf]
        return mf
    raise ValueError(f"an SCF is one of 'exact', {', '.join(map(repr, _GRID_LEVELS))}, not {scf!r}")


class CycleCounter:
    """SCFs of one labelled molecule from several densities.

    Integrals, fitting tensors and grid are made by the first and kept for the others, as is the SCF from minao.

    mol: the label's molecule in the basis of the label file. xc: functional.
    """

    def __init__(self, label: Label, mol: gto.Mole, xc: str, scf: Scf = "exact") -> None:
        self.label, self.mol, self.xc, self.scf = label, mol, xc, scf

    @cached_property
    def _mf(self) -> Any:
        return make_mf(self.mol, self.xc, self.scf)

    def run(self, dm0: Array) -> ScfRun:
        """The SCF from a density (nao, nao); NOT_RUN where `scf` is `none`."""
        if self.scf == "none":
            return NOT_RUN
        energy = self._mf.kernel(dm0=dm0)
        return ScfRun(int(self._mf.cycles), bool(self._mf.converged), float(energy))

    @cached_property
    def minao(self) -> ScfRun:
        """The SCF from minao that a guess is compared with.

        `exact`: that of the label file where it was run there (energy: the label's), else it is run. `fitted` and
        `coarse` are always run: cycles of two kinds of SCF must not be compared. `none`: what the label file says.
        """
        if self.scf == "none" or (self.scf == "exact" and self.label.cycles_minao >= 0):
            return ScfRun(self.label.cycles_minao, True, self.label.energy)
        return self.run(self._mf.get_init_guess(self.mol, "minao"))
