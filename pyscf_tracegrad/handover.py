"""Will PySCF's SCF stay at a state that it is handed, and say that it has converged?

PySCF's first cycle and its last check are steps without DIIS. Where the HOMO-LUMO gap is small such a step enlarges the
gradient, 37 to 100 times at 0.01 to 0.06 hartree, and an SCF that had converged after one cycle is then called not
converged. So the enlargement is measured on the cheap operator, and the gradient that is handed over made as much
smaller. Whether PySCF's DIIS walks away even so is seen by running it, on the cheap operator, too.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pyscf_tracegrad.calculation import Calculation, State
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.twin import Thresholds, Twin

Array = NDArray[np.float64]

# Of PySCF's limits, what a predicted gradient may take.
_SHARE = 0.5
# PySCF's last check lets three times its limit pass.
_LAST_CHECK = 3.0
# Gradients (hartree) below this are rounding: nothing is measured on them, and no smaller one is asked for.
_ROUNDING = 1e-8
# Cycles within which an SCF from a converged state has settled, or will not.
_CYCLES = 15


def enlargement(calculation: Calculation, cheap: CheapFock, shift: Array | float, state: State) -> float:
    """By how much one step without DIIS enlarges the gradient of a nearly converged state; three cheap builds.

    The larger one of the first step's and of the mean of two; below 1 where the steps converge.
    """
    norms: list[float] = []
    for last in (False, False, True):
        fock = cheap(state.dm) + shift
        norms.append(calculation.gradient(state, fock))
        if not last:
            state = calculation.state(calculation.effective(state.dm, fock))
    first = max(norms[0], _ROUNDING)
    return max(norms[1] / first, float(np.sqrt(norms[2] / first)))


def wanted_gradient(thresholds: Thresholds, enlarged: float) -> float:
    """Gradient norm (hartree) of a density from which PySCF's first cycle and its last check both pass, or the
    smallest one that can be had.
    """
    return max(_SHARE * thresholds.gradient / _two_steps(enlarged), _ROUNDING)


def passes(gradient: float, thresholds: Thresholds, enlarged: float) -> bool:
    """Whether they are expected to, from a density of this gradient norm (hartree)."""
    return gradient * _two_steps(enlarged) < thresholds.gradient


def _two_steps(enlarged: float) -> float:
    """What a gradient is multiplied by, over PySCF's limit of each step."""
    return max(1.0, enlarged, enlarged**2 / _LAST_CHECK)


def settles(
    calculation: Calculation, cheap: CheapFock, shift: Array | float, state: State, thresholds: Thresholds
) -> bool:
    """Whether PySCF's SCF on the cheap operator converges from a state within a few cycles, and stays near it."""
    twin = Twin(calculation, cheap, shift)
    before = twin.energy(state)
    after = twin.scf(state.dm, _CYCLES, thresholds)
    return after.converged and abs(after.energy - before) < 1e-5
