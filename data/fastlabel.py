"""The converged Fock matrix by deferred correction: many cheap Fock builds, few exact ones.

The cheap operator (density-fitted J/K, level-0 grid) is converged, then the difference to the exact operator

    delta = F_exact[D] - F_cheap[D]

is added to it as a constant, and it is converged again. What is left is the change of delta with the density, so each
round gains about two digits or more, and three exact builds do what takes a plain run about fifteen. Whatever the cheap
operator leaves out (non-local correlation) is in delta.

The exact builds of the first rounds only have to be good, so they take V_xc by `GridXC`, which is the same sum over the
same grid at half the time of PySCF's `nr_rks`. The last one, which is the label, is PySCF's own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, gto, lib, scf
from pyscf.scf.diis import CDIIS

from data.errors import MoleculeError
from data.settings import TheoryLevel
from pyscf_tracegrad.calculation import Calculation, State
from pyscf_tracegrad.cheapfock import CheapFock, OwnJK

Array = NDArray[np.float64]

# Gradient (hartree) at which the first cheap SCF ends: its own error against the exact operator is about 1e-2.
_FIRST = 3e-3
# A round's cheap SCF is converged to this part of the exact gradient that it starts from, but not tighter than needed.
_GAIN, _MARGIN = 3e-3, 0.25
_ROUNDS, _CYCLES = 8, 40
# Rounds whose exact operator is the quick one.
_QUICK_ROUNDS = 2
# A round that leaves more than this part of the gradient does not converge.
_STALLED = 0.5
# Pairs of density and cheap Fock matrix that outlive a correction.
_KEPT = 4
# More builds than ever happen: to keep the AO values of a fine grid costs more than to evaluate them twice.
_NEVER = 10**9


class Deadline:
    """Time limit of one label; `check` raises MoleculeError once it is over."""

    def __init__(self, name: str, minutes: float) -> None:
        self.name, self.minutes = name, minutes
        self._end = time.monotonic() + 60 * minutes

    def check(self) -> None:
        if time.monotonic() > self._end:
            raise MoleculeError(
                f"{self.name}: timeout, no label after {self.minutes:g} minutes; raise labels.minutes to have it"
            )


@dataclass(frozen=True)
class Point:
    """The exact Fock matrix of a density.

    state: orbitals, and the density of them. fock: (nao, nao), hartree, PySCF's AO order. energy: hartree.
    gradient_norm: Frobenius norm of 2 C_vir^T F C_occ, hartree (`scf.hf.get_grad`).
    """

    state: State
    fock: Array
    energy: float
    gradient_norm: float


def make_scf(mol: gto.Mole, theory: TheoryLevel) -> Any:
    """PySCF's own closed-shell object at its defaults, RHF for `hf`."""
    if theory.xc.lower() == "hf":
        return scf.RHF(mol)
    mf = dft.RKS(mol, xc=theory.xc)
    mf.grids.level = theory.grid_level
    return mf


class Exact:
    """PySCF's own operator of one molecule, under a deadline that every build checks.

    The two-electron integrals are made once, and kept where they fit into `mol.max_memory` besides `reserve` (MB).

    Attributes
    ----------
    mf : dft.rks.RKS or scf.hf.RHF
        PySCF's object at its defaults, but for the grid level; its `get_veff` is watched.
    builds : int
        Exact Fock builds so far, those by the quick V_xc included.
    last : list of (dm, vhf)
        Density and potential of the last two builds of `mf`.
    """

    def __init__(self, mol: gto.Mole, theory: TheoryLevel, deadline: Deadline, reserve: float = 0.0) -> None:
        self.theory, self.deadline = theory, deadline
        self.builds = 0
        self.last: list[tuple[Any, Any]] = []
        self.mf: Any = make_scf(mol, theory)
        self.mf.chkfile = None
        # as `SCF._is_mem_enough`; now, before anything else takes the memory that they need
        if 1e-6 * mol.nao**4 + lib.current_memory()[0] + reserve < 0.95 * mol.max_memory:
            self.mf._eri = mol.intor("int2e", aosym="s8")
        self.calculation = Calculation(self.mf, mol)
        self._get_veff: Callable[..., Any] = self.mf.get_veff
        self.mf.get_veff = self._watched
        self._quick_fock: CheapFock | None = None

    def _watched(self, mol: gto.Mole | None = None, dm: Any = None, *rest: Any, **options: Any) -> Any:
        self.deadline.check()
        vhf = self._get_veff(mol, dm, *rest, **options)
        self.builds += 1
        self.last = [*self.last[-1:], (dm, vhf)]
        return vhf

    def at(self, state: State) -> Point:
        """The exact Fock matrix of a density; one build."""
        return self.point(state, self.mf.get_veff(self.calculation.mol, self.calculation.shaped(state.dm)))

    def point(self, state: State, vhf: Any) -> Point:
        """The same from a potential that has been built: `mf.get_veff(dm)`."""
        fock: Array = self.calculation.hcore + np.asarray(vhf)
        energy = float(self.mf.energy_tot(np.asarray(state.dm), self.calculation.hcore, vhf))
        return Point(state, fock, energy, self.calculation.gradient(state, fock))

    @property
    def is_cheap(self) -> bool:
        """Whether there is nothing to gain: without a grid, J and K from kept integrals cost what fitted ones do."""
        return self.mf._eri is not None and not isinstance(self.mf, dft.rks.KohnShamDFT)

    @property
    def has_quick(self) -> bool:
        """Whether `quick` is the whole operator: it knows no non-local correlation, and has nothing to gain in HF."""
        return isinstance(self.mf, dft.rks.KohnShamDFT) and not self.mf.do_nlc()

    def quick(self, state: State) -> tuple[Array, float]:
        """F[D] (nao, nao), the same as PySCF's to 1e-9 hartree, and the norm of its gradient; one build."""
        self.deadline.check()
        calculation = self.calculation
        if self._quick_fock is None:
            self._quick_fock = CheapFock(
                calculation.mol,
                calculation.functional,
                self.theory.grid_level,
                hcore=calculation.hcore,
                keep_ao_after=_NEVER,
                with_df=OwnJK(self.mf),
            )
        self.builds += 1
        fock = self._quick_fock(state.dm)
        return fock, calculation.gradient(state, fock)


class _CheapSCF:
    """DIIS over the cheap operator with a constant added to it."""

    def __init__(self, calculation: Calculation, deadline: Deadline) -> None:
        self.calculation, self.deadline = calculation, deadline
        self.cheap = calculation.cheap(grid_level=0)
        self._delta: Array | float = 0.0
        self._pairs: list[tuple[Any, Array]] = []
        self._diis = self._new_diis()

    def _new_diis(self) -> Any:
        diis = CDIIS(None, None, self.calculation.orthogonal)
        diis.space, diis.verbose = 8, 0
        return diis

    def _update(self, dm: Any, fock: Array) -> Any:
        return self._diis.update(self.calculation.overlap, np.asarray(dm), fock + self._delta)

    def first(self) -> State:
        """State of the cheap Fock matrix of minao's density."""
        self.deadline.check()
        return self.calculation.state(self.cheap(self.calculation.minao()))

    def run(self, state: State, tolerance: float, exact: Array | None = None) -> State:
        """Cycles until the gradient is below the tolerance, or no more are allowed; the last step is for free.

        exact: F_exact[D] of the state; the operator is made equal to it there first.
        """
        for _ in range(_CYCLES):
            self.deadline.check()
            fock = self.cheap(state.dm)
            if exact is not None:
                self._correct(exact - fock)
                exact = None
            gradient = self.calculation.gradient(state, fock + self._delta)
            self._pairs.append((state.dm, fock))
            state = self.calculation.state(self._update(state.dm, fock))
            if gradient < tolerance:
                break
        return state

    def _correct(self, delta: Array) -> None:
        """Another constant; the last pairs, whose errors it changes, start a new DIIS."""
        self._delta, self._diis, self._pairs = delta, self._new_diis(), self._pairs[-_KEPT:]
        for pair in self._pairs:
            self._update(*pair)


def deferred(exact: Exact, gradient: float) -> tuple[Point | None, State, int]:
    """Converge by deferred correction, from minao.

    exact: operator of the molecule. gradient: norm of the orbital gradient to reach, hartree.

    Returns the label, None where the corrections do not converge; the last state, to go on from; and the number of
    cheap builds. Raises MoleculeError at the deadline.
    """
    scheme = _CheapSCF(exact.calculation, exact.deadline)
    state = scheme.run(scheme.first(), _FIRST)
    before = np.inf
    for number in range(_ROUNDS):
        fock, norm = exact.quick(state) if number < _QUICK_ROUNDS and exact.has_quick else (None, 0.0)
        if fock is None or norm < gradient:
            point = exact.at(state)
            fock, norm = point.fock, point.gradient_norm
            if norm < gradient:
                return point, state, scheme.cheap.builds
        if norm > _STALLED * before:
            break
        before = norm
        state = scheme.run(state, float(np.clip(_GAIN * norm, _MARGIN * gradient, 1e-4)), fock)
    return None, state, scheme.cheap.builds
