"""Which SCF state a guess leads to, where there may be more than one.

An SCF has many solutions. PySCF's own guess leads to one of them, and a better start may lead to a higher one: the
closed shell of H2 at 7 bohr has one 27 mEh above that which minao finds. An ordinary molecule gives no sign of a second
state, and nothing is done for it. Where a sign is there (`suspicion`), the SCF is run twice on the cheap operator, from
the guess and as PySCF would from minao's density (`twin.py`), and the state of lower energy goes on, or a lower one
still where that is a saddle point. Where DIIS converges neither, PySCF's second-order solver follows from the lower
one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_tracegrad.calculation import Calculation, State
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.reference import Pair, diis_errors
from pyscf_tracegrad.twin import Outcome, Thresholds, Twin

Array = NDArray[np.float64]

# HOMO-LUMO gap (hartree) below which a state is not taken for the only one: a + b c_x, for a functional with the share
# c_x of exact exchange, which widens gaps.
_GAP, _GAP_BY_EXCHANGE = 0.08, 0.17
# The same for F_ref of a closed shell, a step before the state; open shells have degenerate orbitals there as a rule.
_REFERENCE_GAP = 0.02
# DIIS error of the last damped step of F_ref over that of the one before.
_OVERSHOOT = 1.0
# <S^2> above S(S + 1).
_CONTAMINATION = 0.1
# Cheap cycles that an ordinary molecule does not need.
_SLOW = 22
# Elements whose d or f shells fill: states of other occupations lie close by.
_OPEN_SHELLS = (*range(21, 30), *range(39, 48), *range(57, 80), *range(89, 112))
# Energies of two cheap states (hartree) that are told apart on the thin grid, and on the fine one.
_THIN, _FINE = 1e-3, 1e-6
# Where there are many states, as in atoms of metals, rough thresholds end on plateaus that PySCF's SCF passes: Fe+ by
# PBE has one 1e-4 hartree above the state that minao leads to, and PySCF's last step takes Ni by UHF down 2e-6. So up
# to this number of AOs, where it costs nothing, the SCF to compare has the user's thresholds and the fine operator,
# which single precision would not reach; with the user's own integrals it is strict.
_ROUGH, _STRICT, _SMALL = Thresholds(1e-7, 1e-3), Thresholds(1e-10, 1e-6), 100
# Cycles of a cheap SCF, and of the second-order solver, at most.
_MAX_CYCLE, _MAX_MACRO = 50, 20


def forewarned(calculation: Calculation) -> str:
    """Why a calculation may have several states whatever its guess; empty where nothing says so."""
    metals = sorted({_symbol(z) for z in _elements(calculation.mol) if z in _OPEN_SHELLS})
    if metals:
        return f"open d or f shells ({', '.join(metals)})"
    return "no fixed spin" if calculation.free_spin else ""


def suspicion(
    calculation: Calculation,
    cheap: CheapFock,
    start: State,
    pairs: Sequence[Pair],
    found: State | None = None,
    cycles: int = 0,
) -> str:
    """Why there may be another state than the one that a guess leads to; empty where nothing says so.

    cheap: operator of the calculation's functional. start: state that the guess begins with. pairs: what F_ref was made
    of. found: state that cheap cycles came to, in so many cycles; None before them, when the start is judged, which is
    not done again.
    """
    if found is None:
        return forewarned(calculation) or _at_the_start(calculation, start, pairs)
    if cycles > _SLOW:
        return f"{cycles} cheap cycles"
    narrow = _GAP + _GAP_BY_EXCHANGE * cheap.exact_exchange
    if found.gap < narrow:
        return f"a gap of {max(found.gap, 0.0):.3f} hartree"
    contamination = calculation.spin_contamination(found)
    return f"spin contamination of {contamination:.2f}" if contamination > _CONTAMINATION else ""


def _at_the_start(calculation: Calculation, start: State, pairs: Sequence[Pair]) -> str:
    paired = calculation.form != "unrestricted" and calculation.nelec[0] == calculation.nelec[1]
    if paired and start.gap < _REFERENCE_GAP:
        return f"a gap of {max(start.gap, 0.0):.3f} hartree at the start"
    errors = diis_errors(pairs, calculation.overlap)
    overshot = len(errors) > 2 and errors[-1] > _OVERSHOOT * errors[-2] and errors[-1] > 1e-3
    return "the first steps overshot" if overshot else ""


def _elements(mol: gto.Mole) -> list[int]:
    return [gto.charge(mol.atom_symbol(a)) for a in range(mol.natm) if mol.atom_charge(a)]


def _symbol(z: int) -> str:
    return str(gto.mole._symbol(z))


@dataclass(frozen=True)
class Choice:
    """The state that goes on. energy: electronic, in the cheap operator, hartree. origin: `guess` or `minao`, where its
    SCF started. gain: how much lower it is than the state from the guess, hartree. converged: whether its cheap SCF
    is. second_order: whether that took PySCF's second-order solver. unstable: whether a lower state lies along a mode
    of negative curvature. followed: how far down such modes were followed, hartree.
    """

    state: State
    energy: float
    origin: str
    gain: float
    converged: bool
    second_order: bool = False
    unstable: bool = False
    followed: float = 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know."""
        notes = []
        if not self.converged:
            notes.append("none of them converged in the cheap operator")
        elif self.origin == "minao" and self.gain:
            notes.append(f"the state that minao's density leads to is {self.gain:.1e} hartree lower and was taken")
        if self.second_order:
            notes.append("DIIS did not converge; the second-order solver did")
        if self.followed:
            notes.append(f"that was a saddle point, and a state {self.followed:.1e} hartree lower was taken")
        if self.unstable:
            notes.append("the state is a saddle point: a lower one is near")
        return tuple(notes)


def lowest(
    calculation: Calculation,
    cheap: CheapFock,
    own: State,
    own_converged: bool,
    chosen: bool = False,
    follow: bool = False,
) -> Choice:
    """The lower one of two states: that of cheap cycles from the guess, and the one that minao's density leads to.

    cheap: operator to compare in; where the two are closer than the thin grid can tell, that of full precision decides.
    own_converged: whether the cheap cycles are; they are run again by PySCF's DIIS otherwise. chosen: whether the state
    is the user's own choice; it is then neither compared nor left. follow: leave it even so if it is a saddle point.
    """
    if cheap.exact:
        twin, limits = Twin(calculation, cheap), _STRICT
    elif calculation.nao <= _SMALL:
        twin, limits = Twin(calculation, cheap), Thresholds.of(calculation.plain)
    else:
        twin, limits = Twin(calculation, cheap.thinned()), _ROUGH
    settled = own_converged and limits == _ROUGH
    mine = Outcome(own, twin.energy(own), True, 0) if settled else twin.scf(own.dm, _MAX_CYCLE, limits)
    best, origin = mine, "guess"
    if not chosen:
        best, origin = _lower(calculation, cheap, mine, twin.scf(calculation.minao(), _MAX_CYCLE, limits))
    second_order = False
    if not best.converged and calculation.whole_occupations:
        solved = twin.newton(best.state, _MAX_MACRO, limits)
        if solved.converged:
            best, second_order = solved, True
    lowest_start = best
    best, unstable = _stable(twin, best, limits, follow or not chosen) if best.converged else (best, False)
    gain = max(0.0, mine.energy - lowest_start.energy) if mine.converged else 0.0
    followed = max(0.0, lowest_start.energy - best.energy)
    return Choice(best.state, best.energy, origin, gain, best.converged, second_order, unstable, followed)


def _lower(calculation: Calculation, cheap: CheapFock, mine: Outcome, other: Outcome) -> tuple[Outcome, str]:
    """The one that converged, or the lower one of two that did."""
    if mine.converged != other.converged:
        return (mine, "guess") if mine.converged else (other, "minao")
    difference = mine.energy - other.energy
    if abs(difference) < _THIN and abs(difference) > 1e-7 and mine.converged:
        fine = Twin(calculation, cheap)
        difference = fine.energy(mine.state) - fine.energy(other.state)
    return (other, "minao") if difference > _FINE else (mine, "guess")


def _stable(twin: Twin, found: Outcome, limits: Thresholds, follow: bool) -> tuple[Outcome, bool]:
    """Internal stability of a state, followed down three times at most; whether a lower one is left."""
    if not twin.calculation.whole_occupations:
        return found, False
    for _ in range(3):
        turned = twin.lower_direction(found.state)
        if turned is None:
            return found, False
        if not follow:
            return found, True
        lower = twin.newton(turned, _MAX_MACRO, limits)
        if not lower.converged or lower.energy > found.energy - _FINE:
            return found, True
        found = lower
    return found, twin.lower_direction(found.state) is not None
