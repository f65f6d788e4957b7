"""J and K without stored integrals, for molecules whose fitting tensors do not fit into memory.

The integrals are PySCF's own, screened much more coarsely than in an SCF and contracted only with the change of the
density since the last build (Almloef, Faegri and Korsell, doi:10.1002/jcc.540030314; incremental: Haeser and Ahlrichs,
doi:10.1002/jcc.540100111). Most builds of a guess change the density little, so that most integrals fall away.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.scf import hf

Array = NDArray[np.float64]

# Integrals times density below this (hartree) are left out. Errors of J and K (inosine, 326 AOs) are then 3e-5 hartree
# at most and 8e-7 on average; those of density fitting 2e-3 and 3e-6. At 1e-7 a build takes 1.4 times as long.
TOLERANCE = 1e-6


class DirectJK:
    """J and K of one molecule by screened integrals, in the place of density fitting.

    mol: built molecule. tolerance: hartree, of integral times density. Memory: a few matrices (nao, nao) per kind of
    density and operator.
    """

    def __init__(self, mol: gto.Mole, tolerance: float = TOLERANCE) -> None:
        self.mol = mol
        helper = hf.SCF(mol)  # whose `get_jk` never keeps integrals, whatever spin and symmetry the molecule has
        helper.verbose, helper.direct_scf, helper.direct_scf_tol = 0, True, tolerance
        self._helper = helper
        # (shape of the density, with J, with K, omega) -> density of the last build, its J and K
        self._last: dict[tuple[Any, ...], tuple[Array, Any, Any]] = {}

    def get_jk(self, dm: Any, hermi: int = 1, with_j: bool = True, with_k: bool = True, omega: Any = None) -> Any:
        """J and K as `scf.hf.RHF.get_jk`."""
        density = np.array(dm)
        key = (density.shape, with_j, with_k, omega)
        before = self._last.get(key)
        change = density if before is None else density - before[0]
        vj, vk = self._helper.get_jk(self.mol, change, hermi, with_j, with_k, omega)
        if before is not None:
            vj = vj + before[1] if with_j else vj
            vk = vk + before[2] if with_k else vk
        self._last[key] = density, vj, vk
        return vj, vk
