"""PySCF's own solvers on the cheap operator: what a calculation would do from a density, before it does it.

A twin is a silent copy of the user's SCF object whose Fock builds are cheap ones. Its SCF is PySCF's own, with the
user's DIIS, damping, level shift, symmetry and occupations, at a tenth of the price. Three things are asked of it: to
which state minao's density leads (`states.py`), whether PySCF's SCF stays at a state that is handed over (`settled`),
and, where DIIS fails, the minimum by PySCF's second-order solver (`newton`; Sun, Yang and Chan, arXiv:1610.08423).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import dft, lib
from pyscf.scf import hf, stability

from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.calculation import Calculation, State, homo_lumo_gap
from pyscf_tracegrad.cheapfock import CheapFock

Array = NDArray[np.float64]

# Grid of the response of the exchange-correlation potential; second-order steps and stability need no better one.
_RESPONSE_LEVEL = 0


@dataclass(frozen=True)
class Thresholds:
    """When an SCF has converged: changes of the energy, and gradient norm, below these; hartree."""

    energy: float
    gradient: float

    @classmethod
    def of(cls, mf: Any) -> Thresholds:
        """Those of an SCF object; PySCF's default for the gradient is the root of that for the energy."""
        energy = float(mf.conv_tol)
        return cls(energy, float(getattr(mf, "conv_tol_grad", None) or np.sqrt(energy)))


class Outcome(NamedTuple):
    """What an SCF came to. energy: electronic, hartree, as `CheapFock.build` has it, with the entropy of smearing taken
    off. cycles: that it took.
    """

    state: State
    energy: float
    converged: bool
    cycles: int


class Twin:
    """One calculation on a cheap operator.

    shift: constant matrix that is added to the operator, (nao, nao) or (2, nao, nao), hartree.
    """

    def __init__(self, calculation: Calculation, cheap: CheapFock, shift: Array | float = 0.0) -> None:
        self.calculation, self.cheap, self.shift = calculation, cheap, shift

    def energy(self, state: State) -> float:
        """Electronic energy of a state, one cheap build."""
        return self._energy_and_fock(state.dm)[0] - state.entropy

    def scf(self, dm: Any, max_cycle: int, limits: Thresholds) -> Outcome:
        """PySCF's SCF from a density in the form of the calculation, without its last check."""
        mf = self._object()
        mf.max_cycle = max_cycle
        with one_blas_thread():
            found = hf.kernel(mf, limits.energy, limits.gradient, dump_chk=False, dm0=dm, conv_check=False)
        return self._outcome(mf, found, getattr(mf, "cycles", max_cycle))

    def newton(self, state: State, max_cycle: int, limits: Thresholds) -> Outcome:
        """PySCF's second-order SCF from the orbitals of a state of whole occupations."""
        mf = self._object()
        self._prepare_response(mf)
        solver = mf.newton()
        solver.verbose, solver.chkfile, solver.max_cycle = 0, None, max_cycle
        solver.conv_tol, solver.conv_tol_grad = limits.energy, limits.gradient
        before = self.cheap.builds
        with one_blas_thread():
            solver.kernel(np.asarray(state.mo_coeff), np.asarray(state.mo_occ))
        found = solver.converged, solver.e_tot, solver.mo_energy, solver.mo_coeff, solver.mo_occ
        return self._outcome(mf, found, self.cheap.builds - before)

    def lower_direction(self, state: State, tolerance: float = 1e-4) -> State | None:
        """Orbitals turned along a mode of negative curvature, None where there is none (internal stability).

        Keeps what the class keeps: spin restriction, symmetry of the orbitals, real coefficients.
        """
        mf = self._object()
        self._prepare_response(mf)
        mf.mo_coeff, mf.mo_occ = np.asarray(state.mo_coeff), np.asarray(state.mo_occ)
        test = {"restricted": stability.rhf_internal, "unrestricted": stability.uhf_internal}
        with one_blas_thread():
            mo_coeff, stable = test.get(self.calculation.form, stability.rohf_internal)(
                mf, verbose=0, return_status=True, nroots=1, tol=tolerance
            )
        if stable:
            return None
        return state._replace(mo_coeff=mo_coeff, dm=mf.make_rdm1(mo_coeff, state.mo_occ))

    def _energy_and_fock(self, dm: Any) -> tuple[float, Array]:
        build = self.cheap.build(dm)
        shifted = np.broadcast_to(self.shift, build.fock.shape)
        return build.energy + float(np.vdot(shifted, np.asarray(dm))), build.fock + shifted

    def _object(self) -> Any:
        """The copy with the cheap operator in the place of every build."""
        calculation = self.calculation
        mf = calculation.worker_copy()

        def get_veff(_mol: Any = None, dm: Any = None, *_: Any, **__: Any) -> Any:
            dm = mf.make_rdm1() if dm is None else dm
            energy, fock = self._energy_and_fock(calculation.in_form(dm))
            # where a solvent is attached PySCF adds its potential and energy; they are in the operator already
            return lib.tag_array(fock - calculation.hcore, electronic=energy, v_solvent=0.0, e_solvent=0.0)

        def energy_elec(_dm: Any = None, _h1e: Any = None, vhf: Any = None) -> tuple[float, float]:
            return float(vhf.electronic), 0.0

        mf.get_hcore = lambda *_: calculation.hcore
        mf.get_veff, mf.energy_elec = get_veff, energy_elec
        mf.energy_nuc = lambda *_: 0.0
        mf.callback, mf.check_convergence, mf.pre_kernel = None, None, lambda *_: None
        return mf

    def _prepare_response(self, mf: Any) -> None:
        """Cheap J, K and grid for PySCF's response functions."""
        integrals = self.cheap.with_df

        def get_jk(
            _mol: Any = None,
            dm: Any = None,
            hermi: int = 1,
            with_j: bool = True,
            with_k: bool = True,
            omega: Any = None,
        ) -> Any:
            return integrals.get_jk(np.asarray(dm), hermi=hermi, with_j=with_j, with_k=with_k, omega=omega)

        mf.get_jk = get_jk
        mf.get_j = lambda mol=None, dm=None, hermi=1, omega=None: get_jk(mol, dm, hermi, True, False, omega)[0]
        mf.get_k = lambda mol=None, dm=None, hermi=1, omega=None: get_jk(mol, dm, hermi, False, True, omega)[1]
        if isinstance(mf, dft.rks.KohnShamDFT):
            mf.grids = dft.Grids(mf.mol)
            mf.grids.level, mf.grids.verbose = _RESPONSE_LEVEL, 0
            mf.grids.build()

    def _outcome(self, mf: Any, found: tuple[Any, ...], cycles: int) -> Outcome:
        converged, energy, mo_energy, mo_coeff, mo_occ = found
        entropy = self.calculation.entropy_of(mf)
        state = State(mo_coeff, mo_occ, mf.make_rdm1(mo_coeff, mo_occ), homo_lumo_gap(mo_energy, mo_occ), entropy)
        return Outcome(state, float(energy) - entropy, bool(converged), int(cycles))
