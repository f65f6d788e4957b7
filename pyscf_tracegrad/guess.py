"""The table of contents of a guess: one line per stage.

calculation -> domain -> start (network or F_ref) -> gate -> cheap cycles -> exact correction -> density in its shape
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.lib import logger
from pyscf.scf import hf

from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.directjk import DirectJK
from pyscf_tracegrad.domain import check_density, check_molecule, check_network, check_overlap, check_scf
from pyscf_tracegrad.errors import BadMolecule, OutsideDomain, TracegradError
from pyscf_tracegrad.gate import Gate, measure
from pyscf_tracegrad.laststep import last_step
from pyscf_tracegrad.options import GuessOptions, Refine, Transfer
from pyscf_tracegrad.options import Start as StartName
from pyscf_tracegrad.refine import Refined, refine, schedule_for
from pyscf_tracegrad.report import GuessReport
from pyscf_tracegrad.starts import GRID_LEVEL, Start, choose_start

if TYPE_CHECKING:
    from pyscf_tracegrad.pretrained import PretrainedModel

Array = NDArray[np.float64]

# What PySCF and its libraries raise for a basis without fitting functions, a functional that they cannot evaluate on
# this kind of density, or a matrix that cannot be diagonalised. None of these may end a calculation that minao starts.
_CANNOT = (RuntimeError, KeyError, ValueError, OSError, np.linalg.LinAlgError)

# Cheap gradient norm (hartree) above which a refined density is no better than minao's.
_NOT_CONVERGED = 0.05
# HOMO-LUMO gap (hartree) of a closed shell below which PySCF's last check may see another occupation than the guess.
_DEGENERATE = 3e-3


@dataclass(frozen=True)
class Guess:
    """A density in the shape of its calculation, and how it came about.

    fock: Fock matrix that it was made of, hartree, in the form of the calculation; None where it was refined, or where
    there was none.
    """

    dm: Any
    report: GuessReport
    fock: Any = None


def make_guess(
    mol_or_mf: Any, options: GuessOptions | None = None, model: PretrainedModel | None = None, mol: Any = None
) -> Guess:
    """Guess of a molecule (as B3LYP, unrestricted if it has open shells) or of an SCF object.

    mol: molecule to start from, that of the SCF object if not given. model: from `load_model`; the shipped one if not
    given. Raises OutsideDomain for what is not covered, CheckpointError for weights that cannot be used.
    """
    options = GuessOptions() if options is None else options
    if model is not None and not hasattr(model, "checkpoint"):
        raise TypeError(f"model takes what load_model returns, not {model!r}")
    by_molecule = isinstance(mol_or_mf, gto.MoleBase)
    if by_molecule:
        mol = mol_or_mf
        check_molecule(mol)
        mf = mol.RKS(xc="b3lyp") if mol.spin == 0 else mol.UKS(xc="b3lyp")
    else:
        mf, mol = mol_or_mf, mol_or_mf.mol if mol is None else mol
        check_scf(mf)
        check_molecule(mol)
        check_overlap(mf, mol)
    try:
        return _make(Calculation(mf, mol), options, model, allow_exact=not by_molecule)
    except TracegradError:
        raise
    except _CANNOT as error:
        raise OutsideDomain(f"{type(error).__name__} in PySCF: {error}") from error


def _make(calculation: Calculation, options: GuessOptions, model: PretrainedModel | None, allow_exact: bool) -> Guess:
    schedule = schedule_for(calculation, options, allow_exact)
    start = choose_start(calculation, options, model, thin=schedule is not None and schedule.thinned)
    refined: Refined | None = None
    cheap = start.cheap
    seconds = dict(start.seconds)
    if schedule is not None:
        if cheap is None:
            cheap = calculation.cheap(GRID_LEVEL)
            seconds["set-up of the user's basis"] = cheap.setup_seconds
        refined = refine(calculation, cheap, start.state, start.pairs, schedule)
        seconds |= refined.seconds
        if options.refine == "auto":
            _check_refined(calculation, refined)
    else:
        if start.route == "reference":
            _check_reference(calculation, start)
        start = last_step(calculation, start)
        seconds = dict(start.seconds)
    begin = time.perf_counter()
    dm = calculation.shaped((refined or start).state.dm)
    check_density(dm, calculation.shape)
    seconds["density"] = time.perf_counter() - begin
    notes = start.notes + calculation.functional.notes + (() if refined is None else refined.notes)
    direct = cheap is not None and isinstance(cheap.with_df, DirectJK)
    if direct:
        notes += (f"fitting integrals beyond max_memory ({calculation.mol.max_memory:g} MB) were not made",)
    builds, exact_builds = (0 if cheap is None else cheap.builds), (0 if refined is None else refined.exact_builds)
    if cheap is not None and cheap.exact:
        builds, exact_builds = 0, builds
    report = GuessReport(
        route=start.route,
        transfer=start.transfer,
        refined=refined is not None,
        cheap_builds=start.builds + builds,
        exact_builds=exact_builds,
        gradient=float("nan") if refined is None else refined.gradient,
        direct=direct,
        signals=start.signals,
        notes=notes,
        seconds=seconds,
    )
    return Guess(dm, report, start.fock if refined is None else None)


def _check_refined(calculation: Calculation, refined: Refined) -> None:
    """Refuse a cheap SCF that has not converged, or whose occupation is undecided. Raises OutsideDomain.

    Open shells may have degenerate frontier orbitals: it did them no harm.
    """
    if refined.gradient > _NOT_CONVERGED:
        raise OutsideDomain(f"the cheap cycles did not converge (gradient norm {refined.gradient:.2g} hartree)")
    if calculation.form == "restricted" and refined.state.gap < _DEGENERATE:
        raise OutsideDomain(f"the frontier orbitals are degenerate (gap {refined.state.gap:.1g} hartree)")


def _check_reference(calculation: Calculation, start: Start) -> None:
    """Refuse an F_ref, not to be refined, that the gate rejects. Raises OutsideDomain."""
    if start.reference is None:
        return
    objection = Gate().objection(measure(calculation.mol, start.reference.fock, start.reference, calculation.nelec))
    if objection:
        raise OutsideDomain(f"the gate rejected F_ref: {objection}; refine='auto' cures that")


def predict_fock(mol: gto.Mole, model: PretrainedModel | None = None) -> Array:
    """Predicted converged Fock matrix (nao, nao), hartree, PySCF AO order, at the level of theory of the labels.

    model: from `load_model`; the shipped one if not given. Raises OutsideDomain for what the network does not cover.
    """
    check_molecule(mol)
    check_network(mol)
    if model is None:
        from pyscf_tracegrad.pretrained import load_model  # needs torch

        model = load_model()
    return model.predict(mol).fock


def tracegrad_guess(
    mol_or_mf: Any,
    model: PretrainedModel | None = None,
    strict: bool = False,
    *,
    refine: Refine = "auto",
    transfer: Transfer = "auto",
    start: StartName = "auto",
    report: bool = False,
) -> Any:
    """Starting density of an SCF: `mf.kernel(dm0=tracegrad_guess(mf))`.

    Parameters
    ----------
    mol_or_mf : gto.Mole or scf.hf.SCF
        An SCF object, whose class, functional and options then count; or a molecule, taken as B3LYP, unrestricted if it
        has open shells, without an exact build.
    model : PretrainedModel, optional
        From `load_model`; the shipped one if not given.
    strict : bool
        Raise OutsideDomain for what is not covered. Otherwise warn with the reason through `pyscf.lib.logger` and
        return the minao density, in the shape that the SCF object needs.
    refine, transfer, start
        As in `GuessOptions`: cheap cycles ('auto', a number, False), the way into another basis, the first state.
    report : bool
        Return `(dm, GuessReport)`.

    Returns
    -------
    Density in PySCF AO order, in the shape that the object's class takes: (nao, nao) for RHF and RKS, (2, nao, nao) for
    UHF, UKS, ROHF and ROKS, (2 nao, 2 nao) for GHF and GKS; tagged with `mo_coeff` and `mo_occ` where the class can use
    them. For a molecule (nao, nao), or (2, nao, nao) if it has open shells.
    """
    if not isinstance(mol_or_mf, (gto.MoleBase, hf.SCF)):
        raise TypeError(f"tracegrad_guess takes a Mole or an SCF object, not {type(mol_or_mf).__name__}")
    guess = guess_or_minao(mol_or_mf, GuessOptions(refine, transfer, start, strict), model)
    return (guess.dm, guess.report) if report else guess.dm


def guess_or_minao(mol_or_mf: gto.Mole | hf.SCF, options: GuessOptions, model: PretrainedModel | None = None) -> Guess:
    """What `tracegrad_guess` hands over, with the Fock matrix that it was made of; minao with a warning otherwise."""
    mf = None if isinstance(mol_or_mf, gto.MoleBase) else mol_or_mf
    mol = mol_or_mf if mf is None else mf.mol
    try:
        return make_guess(mol_or_mf, options, model)
    except TracegradError as error:
        no_fallback = isinstance(error, BadMolecule) or (mf is None and mol.natm == 0)  # minao needs atoms
        if options.strict or no_fallback:
            raise
        warn_fallback(mol_or_mf, error)
        fallback = mf if mf is not None else (hf.RHF(mol) if mol.spin == 0 else mol.UHF())
        dm = _minao_or_core(fallback, mol, lambda: fallback.get_init_guess(mol, "minao"))
        return Guess(dm, GuessReport("minao", notes=(str(error),)))


def serve(
    mf: Any, mol: gto.Mole, options: GuessOptions, minao: Callable[[], Any], model: PretrainedModel | None = None
) -> Any:
    """Density for an SCF object in the shape that it needs, or `minao()` with a warning; sets `mf.init_guess_report`.

    Raises OutsideDomain and CheckpointError instead of falling back if `options.strict`, and BadMolecule always.
    """
    mf.init_guess_report = None  # not that of an earlier guess, should this one raise
    try:
        guess = make_guess(mf, options, model, mol)
    except TracegradError as error:
        if options.strict or isinstance(error, BadMolecule):
            raise
        warn_fallback(mf, error)
        guess = Guess(_minao_or_core(mf, mol, minao), GuessReport("minao", notes=(str(error),)))
    mf.init_guess_report = guess.report
    logger.info(mf, "Initial guess from tracegrad: %s", guess.report)
    return guess.dm


def _minao_or_core(mf: Any, mol: gto.Mole, minao: Callable[[], Any]) -> Any:
    """PySCF's minao density, or that of the core Hamiltonian where PySCF 2.14's minao itself fails (Ce with crenbl)."""
    try:
        return minao()
    except _CANNOT as error:
        logger.warn(mf, "PySCF's minao guess failed (%s). Using the core Hamiltonian's instead.", error)
        return mf.get_init_guess(mol, "1e")


def warn_fallback(mol_or_mf: Any, error: TracegradError) -> None:
    """Say through PySCF's logger why minao is used instead."""
    logger.warn(mol_or_mf, "tracegrad guess: %s. Using the minao guess instead.", error)
