"""One structure -> its converged Fock matrix: by deferred correction (`fastlabel.py`), or by a plain PySCF run.

The label is F[D] of PySCF's own closed-shell RKS or RHF object, and the gradient and the energy are those of the same
density. It is measured on the matrix that is returned; PySCF's flag `converged` is not believed.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import df, gto, lib
from pyscf.dft import gen_grid, numint

from data.checks import check_theory
from data.errors import MoleculeError
from data.fastlabel import Deadline, Exact, Point, deferred
from data.settings import LabelSettings, TheoryLevel
from data.structure import LabelRow, Structure
from pyscf_tracegrad.calculation import State

Array = NDArray[np.float64]

# PySCF's defaults for `conv_tol` (hartree) and the gradient that goes with it, which `cycles_minao` is counted at.
_CONV_TOL = 1e-9
_CONV_TOL_GRAD = _CONV_TOL**0.5
# Second-order steps at most; each is several Fock builds.
_NEWTON_CYCLES = 20
# MB of a worker with all its libraries loaded, before it has anything to do.
_LIBRARIES = 300.0
# Grid points at most in one block of AO values (`NumInt.block_loop`).
_NR_RKS_BLOCK = 1200 * numint.BLKSIZE
# Last element of each row of the periodic table but the last, as the tables of `gen_grid` have them.
_ROWS = (2, 10, 18, 36, 54, 86)


@dataclass(frozen=True)
class Converged:
    """A converged calculation and what it cost.

    fock: (nao, nao) float64, hartree, PySCF's AO order. energy: hartree. gradient_norm: of 2 C_vir^T F C_occ, hartree.
    exact_builds, cheap_builds: Fock builds. cycles_minao: SCF cycles from minao at PySCF's defaults, -1 where unknown.
    """

    fock: Array
    energy: float
    gradient_norm: float
    exact_builds: int
    cheap_builds: int
    cycles_minao: int = -1


def label(structure: Structure, theory: TheoryLevel, settings: LabelSettings) -> LabelRow:
    """The label of a structure.

    Raises MoleculeError, whose message is the reason, where a basis does not have an element, the SCF does not
    converge, time is over, or memory does not suffice; and SetFileError where PySCF does not know the functional.
    """
    begin = time.perf_counter()
    result = converge(structure, theory, settings)
    return LabelRow(
        structure=structure,
        fock=lib.pack_tril(result.fock).astype(np.float32),
        energy=result.energy,
        gradient_norm=result.gradient_norm,
        cycles_minao=result.cycles_minao,
        seconds=time.perf_counter() - begin,
    )


def converge(structure: Structure, theory: TheoryLevel, settings: LabelSettings) -> Converged:
    """What `label` stores, in double precision and with the number of Fock builds. Raises as `label` does."""
    deadline = Deadline(structure.name, settings.minutes)
    mol = molecule(structure, theory.basis, settings.memory)
    try:
        check_theory(theory, ())
        exact = Exact(mol, theory, deadline, reserve=0.0 if settings.exact else _fitting_memory(mol))
        return _converge(exact, structure.name, settings)
    except MemoryError:
        needed = estimated_memory(structure, theory, settings)
        raise MoleculeError(
            f"{structure.name}: out of memory; it needs about {needed:.0f} MB at labels.memory = {settings.memory}. "
            "Run fewer workers, or lower labels.memory, so that integrals are not kept"
        ) from None
    except np.linalg.LinAlgError as error:
        raise MoleculeError(f"{structure.name}: not converged, the SCF broke down ({error})") from None


def molecule(structure: Structure, basis: str, memory: int) -> gto.Mole:
    """The structure as a PySCF `Mole`, with the effective core potentials that belong to the basis.

    memory: MB. Raises MoleculeError where PySCF does not have the basis for an element.
    """
    try:
        with warnings.catch_warnings():  # PySCF recommends a package where it does not find a basis
            warnings.simplefilter("ignore")
            mol = structure.molecule(basis, memory)
            symbols = sorted({mol.atom_pure_symbol(k) for k in range(mol.natm)})
            potentials = {symbol: basis for symbol in symbols if gto.basis.load_ecp(basis, symbol)}
    except RuntimeError as error:  # BasisNotFoundError is one
        raise MoleculeError(f"{structure.name}: basis {basis!r} cannot be used: {error}") from None
    if potentials:  # PySCF takes none by itself: iodine would have 53 electrons in the orbitals of 25
        mol.ecp = potentials
        mol.build()
    return mol


def _converge(exact: Exact, name: str, settings: LabelSettings) -> Converged:
    cheap_builds, cycles, start, point = 0, -1, None, None
    if not settings.exact and not exact.is_cheap:
        point, start, cheap_builds = deferred(exact, settings.gradient)
    if point is None:
        point, cycles = _plain(exact, settings.gradient, start)
    if point.gradient_norm >= settings.gradient:
        point = _second_order(exact, settings.gradient, point.state)
    if not point.gradient_norm < settings.gradient:
        raise MoleculeError(
            f"{name}: not converged, the orbital gradient is {point.gradient_norm:.1e} hartree after {exact.builds} "
            f"Fock builds and should be below {settings.gradient:g} (labels.gradient)"
        )
    builds = exact.builds
    if settings.cycles_minao and (cycles < 0 or start is not None):
        cycles = _cycles_minao(exact)
    return Converged(
        point.fock, point.energy, point.gradient_norm, builds, cheap_builds, cycles if settings.cycles_minao else -1
    )


def _plain(exact: Exact, gradient: float, start: State | None) -> tuple[Point, int]:
    """PySCF's SCF at its defaults but for the gradient; also the cycle at which all its defaults would have been met.

    start: state to start from, minao if not given.
    """
    mf = exact.mf
    mf.conv_tol, mf.conv_tol_grad = _CONV_TOL, gradient
    cycles = -1

    def count(envs: dict[str, Any]) -> None:
        nonlocal cycles
        change = abs(envs["e_tot"] - envs["last_hf_e"])
        if cycles < 0 and change < _CONV_TOL and envs["norm_gorb"] < _CONV_TOL_GRAD:
            cycles = envs["cycle"] + 1

    mf.callback = count
    mf.kernel(dm0=exact.calculation.minao() if start is None else start.dm)
    mf.callback = None
    # PySCF's extra cycle at the end may leave a larger gradient than the one before it
    points = [exact.point(State(dm.mo_coeff, dm.mo_occ, dm), vhf) for dm, vhf in exact.last]
    return min(points, key=lambda point: point.gradient_norm), cycles


def _second_order(exact: Exact, gradient: float, start: State) -> Point:
    """Once more by PySCF's second-order solver, from where the others have got to."""
    solver = exact.mf.newton()
    solver.verbose = 0
    solver.conv_tol, solver.conv_tol_grad, solver.max_cycle = _CONV_TOL, gradient, _NEWTON_CYCLES
    solver.kernel(start.mo_coeff, start.mo_occ)
    dm = exact.mf.make_rdm1(solver.mo_coeff, solver.mo_occ)
    return exact.at(State(solver.mo_coeff, solver.mo_occ, dm))


def _cycles_minao(exact: Exact) -> int:
    """SCF cycles from minao at PySCF's defaults, -1 where it does not converge; integrals and grid are there."""
    mf = exact.mf
    mf.conv_tol, mf.conv_tol_grad = _CONV_TOL, None
    mf.kernel(dm0=exact.calculation.minao())  # without it, PySCF goes on from the orbitals of its last run
    return int(mf.cycles) if mf.converged else -1


def estimated_memory(structure: Structure, theory: TheoryLevel, settings: LabelSettings) -> float:
    """Memory of one worker at the peak of a label, MB: an estimate from above by what is kept.

    Two-electron integrals (nao^4/8 numbers) where they fit into `settings.memory`; of the fast recipe the three-centre
    integrals (likewise) and the AO values on the level-0 grid; the AO values on one block of PySCF's `nr_rks`; thirty
    matrices; and the libraries. Raises MoleculeError for an unknown basis.
    """
    mol = molecule(structure, theory.basis, settings.memory)
    nao = int(mol.nao)
    fitting = 0.0 if settings.exact else _fitting_memory(mol)
    integrals = 1e-6 * nao**4
    total = _LIBRARIES + 30 * 8e-6 * nao**2
    if total + fitting < settings.memory:
        total += fitting
    if total + integrals < 0.95 * settings.memory:
        total += integrals
    if theory.xc.lower() != "hf":
        total += 8e-6 * 5 * nao * min(_NR_RKS_BLOCK, _grid_points(mol, theory.grid_level))
        total += 0.0 if settings.exact else 8e-6 * 4 * nao * _grid_points(mol, 0)
    return total


def _fitting_memory(mol: gto.Mole) -> float:
    """Three-centre integrals (n_aux, nao (nao+1)/2) in MB."""
    nao, n_aux = int(mol.nao), int(df.addons.make_auxmol(mol).nao)
    return 8e-6 * n_aux * nao * (nao + 1) / 2


def _grid_points(mol: gto.Mole, level: int) -> int:
    """Points of a molecular grid before pruning, which takes away half."""
    rows = [int(np.searchsorted(_ROWS, mol.atom_charge(k) + mol.atom_nelec_core(k))) for k in range(mol.natm)]
    angular = [gen_grid.LEBEDEV_ORDER[int(order)] for order in gen_grid.ANG_ORDER[level]]
    return int(sum(gen_grid.RAD_GRIDS[level, row] * angular[row] for row in rows))
