"""The table of contents of a guess: one line per stage.

calculation -> domain -> start (network or F_ref) -> gate -> cheap cycles -> exact correction -> density in its shape
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.lib import logger
from pyscf.scf import hf

from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.directjk import DirectJK
from pyscf_tracegrad.domain import check_density, check_molecule, check_network, check_overlap, check_scf
from pyscf_tracegrad.errors import OutsideDomain
from pyscf_tracegrad.failures import Failure, attempt
from pyscf_tracegrad.gate import Gate, measure
from pyscf_tracegrad.laststep import last_step
from pyscf_tracegrad.models import choose_model, model_sources
from pyscf_tracegrad.options import GuessOptions, Refine, Transfer
from pyscf_tracegrad.refine import Refined, refine, schedule_for
from pyscf_tracegrad.report import GuessReport
from pyscf_tracegrad.starts import GRID_LEVEL, Start, choose_start
from pyscf_tracegrad.states import forewarned

Array = NDArray[np.float64]

# What to cite, said once in a process at verbose >= 4, as PySCF does for functionals.
_CITE = iter(
    [
        "tracegrad guess: please cite S. Yin et al., TraceGrad, arXiv:2405.05722",
        "tracegrad guess: please cite H. Yu et al., QHNet, arXiv:2306.04922",
        "tracegrad guess: please cite pyscf_tracegrad (CITATION.cff)",
    ]
)


@dataclass(frozen=True)
class Guess:
    """A density in the shape of its calculation, and how it came about.

    fock: Fock matrix that it was made of, hartree, in the form of the calculation; None where it was refined, or where
    there was none.
    """

    dm: Any
    report: GuessReport
    fock: Any = None


def make_guess(mol_or_mf: Any, options: GuessOptions | None = None, model: Any = None, mol: Any = None) -> Guess:
    """Guess of a molecule (as B3LYP, unrestricted if it has open shells) or of an SCF object.

    mol: molecule to start from, that of the SCF object if not given. model: as in `GuessOptions`, in their place.
    Raises OutsideDomain for what is not covered, and for what fails, from its cause.
    """
    options = _with_model(options, model)
    work = _Work(mol_or_mf, mol)
    made = attempt(lambda: work.guess(options), work.user, strict=True)
    if isinstance(made, Failure):
        raise made.strictly()
    return made


def _with_model(options: GuessOptions | None, model: Any) -> GuessOptions:
    options = GuessOptions() if options is None else options
    return options if model is None else dataclasses.replace(options, model=model)


class _Work:
    """A guess in the making, and what has been spent on it should it fail."""

    def __init__(self, mol_or_mf: Any, mol: Any) -> None:
        self.user, self._mol, self._begin = mol_or_mf, mol, time.perf_counter()
        self._calculation: Calculation | None = None

    def guess(self, options: GuessOptions) -> Guess:
        mf, mol = self.user, self._mol
        by_molecule = isinstance(mf, gto.MoleBase)
        if by_molecule:
            mol = mf
            check_molecule(mol)
            two_spins = mol.spin != 0 or options.pattern is not None
            mf = mol.UKS(xc="b3lyp") if two_spins else mol.RKS(xc="b3lyp")
        else:
            mol = mf.mol if mol is None else mol
            check_scf(mf)
            check_molecule(mol)
            check_overlap(mf, mol)
        self._calculation = Calculation(mf, mol, two_spins=options.pattern is not None)
        guess = _make(self._calculation, options, allow_exact=not by_molecule)
        # whoever takes an open-shell density by ROKS or ROHF must not find the orbitals of two spins on it
        return dataclasses.replace(guess, dm=np.asarray(guess.dm)) if by_molecule and np.ndim(guess.dm) == 3 else guess

    def give_up(self, failure: Failure) -> GuessReport:
        """Report of the minao density that serves instead, with the builds and the time that were spent for nothing.

        Lets go of the calculation with its integrals.
        """
        cheap, exact = (0, 0) if self._calculation is None else self._calculation.builds
        self._calculation = None
        seconds = {"given up": time.perf_counter() - self._begin}
        notes = (failure.message,)
        return GuessReport("minao", cheap_builds=cheap, exact_builds=exact, notes=notes, seconds=seconds)


def _make(calculation: Calculation, options: GuessOptions, allow_exact: bool) -> Guess:
    if calculation.fitted_on_disk and options.start == "auto" and not options.chosen:
        raise OutsideDomain(
            "your fitted integrals are on disk, so that a cheap build would cost what an SCF cycle costs"
        )
    schedule = schedule_for(calculation, options, allow_exact)
    start = choose_start(calculation, options, thin=schedule is not None and schedule.thinned)
    calculation.say_seconds(start.seconds)
    refined: Refined | None = None
    cheap = start.cheap
    seconds = dict(start.seconds)
    if schedule is not None:
        if cheap is None:
            cheap = calculation.cheap(GRID_LEVEL)
            seconds["set-up of the user's basis"] = cheap.setup_seconds
        calculation.say("cheap SCF cycles")
        refined = refine(calculation, cheap, start.state, start.pairs, schedule)
        seconds |= refined.seconds
        calculation.say_seconds(refined.seconds)
        if options.refine == "auto":
            _check_refined(refined)
    else:
        if start.route == "reference":
            _check_reference(calculation, start)
        start = last_step(calculation, start)
        seconds = dict(start.seconds)
    begin = time.perf_counter()
    dm = calculation.shaped((refined or start).state.dm)
    check_density(dm, calculation.shape)
    seconds["density"] = time.perf_counter() - begin
    notes = start.notes + calculation.notes + (() if refined is None else refined.notes)
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
        model=start.model,
        **({} if refined is None else refined.told),
    )
    return Guess(dm, report, start.fock if refined is None else None)


def _check_refined(refined: Refined) -> None:
    """Refuse a cheap SCF that has not converged, or whose state PySCF's would leave. Raises OutsideDomain."""
    if not refined.converged:
        raise OutsideDomain("the cheap cycles did not converge")
    if not refined.settles:
        raise OutsideDomain(
            "PySCF's DIIS is not expected to stay at the state that cheap cycles found (its steps enlarge the gradient "
            f"{refined.enlarged:.2g} times); mf.newton(), mf.level_shift or smearing converge such cases"
        )


def _check_reference(calculation: Calculation, start: Start) -> None:
    """Refuse an F_ref, not to be refined, that the gate rejects, or that several states may follow from.

    Raises OutsideDomain.
    """
    if start.reference is None:
        return
    objection = Gate().objection(measure(calculation.mol, start.reference.fock, start.reference, calculation.nelec))
    objection = objection or forewarned(calculation)
    if objection:
        raise OutsideDomain(f"the gate rejected the reference Fock matrix ({objection}), which is not to be refined")


def predict_fock(mol: gto.Mole, model: Any = None) -> Array:
    """Predicted converged Fock matrix (nao, nao), hartree, PySCF AO order, at the level of theory of the labels.

    model: as in `tracegrad_guess`; of several the first with the molecule's AOs answers. Raises OutsideDomain for what
    the network does not cover, or where its answer is not finite; CheckpointError for a file that cannot be used.
    """
    if not isinstance(mol, gto.MoleBase):
        raise TypeError(f"predict_fock takes a Mole, not {type(mol).__name__}")
    check_molecule(mol)
    check_network(mol)
    fock = choose_model(model_sources(model), mol).load().predict(mol).fock
    if not np.isfinite(fock).all():
        raise OutsideDomain("the prediction is not finite")
    return fock


def tracegrad_guess(
    mol_or_mf: Any,
    model: Any = None,
    strict: bool = False,
    *,
    refine: Refine = "auto",
    transfer: Transfer = "auto",
    start: Any = "auto",
    report: bool = False,
    spins: Mapping[int, int] | None = None,
    fragments: Sequence[Any] | None = None,
    stable: bool = False,
) -> Any:
    """Starting density of an SCF: `mf.kernel(dm0=tracegrad_guess(mf))`.

    Of an SCF object it is what `mf.init_guess = 'tracegrad'` starts from. Of a molecule it is not: the class and the
    functional are not known, so it is refined as B3LYP without an exact build, and an SCF takes two or three cycles
    from it where one is enough with the object, and more where its functional is another.

    Parameters
    ----------
    mol_or_mf : gto.Mole or scf.hf.SCF
        An SCF object, whose class, functional and options then count; or a molecule, taken as B3LYP, unrestricted if it
        has open shells, without an exact build.
    model : str, PathLike, PretrainedModel, or a list of these, optional
        Models that may answer, and no others: paths of model files, `'shipped'`, what `load_model` returns. The first
        that has the basis and the functional of the calculation does. The shipped one if not given.
    strict : bool
        Raise OutsideDomain for what is not covered or fails, from its cause. Otherwise warn with the reason through
        `pyscf.lib.logger` and return the next best: from F_ref where the network fails, else the minao density, in the
        shape that the SCF object needs.
    refine, transfer, start
        As in `GuessOptions`: cheap cycles ('auto', a number, False), the way into another basis, the first state, which
        may be an earlier density: a checkpoint file, an SCF object that has run, or `(mol, dm)` of the same atoms.
    spins : dict, optional
        Unpaired electrons (2S, signed) of atoms by 0-based index, `{0: 5, 1: -5}`: where an antiferromagnetic or
        broken-symmetry state begins. They add up to `mol.spin`. For UHF, UKS, GHF and GKS.
    fragments : list, optional
        The same by parts of the molecule that are converged each for itself: `[((0, 1, 2), 0, 1), ((3,), 1, -1)]`, with
        atoms, charge and 2S of each.
    stable : bool
        Test the internal stability of the state that is found and follow it to a lower one. It costs some tens of cheap
        builds.
    report : bool
        Return `(dm, GuessReport)`. `mf.init_guess_report` is of `mf.kernel()`, and not set here.

    Returns
    -------
    Density in PySCF AO order, in the shape that the object's class takes: (nao, nao) for RHF and RKS, (2, nao, nao) for
    UHF, UKS, ROHF and ROKS, (2 nao, 2 nao) for GHF and GKS; tagged with `mo_coeff` and `mo_occ` where the class can use
    them. For a molecule (nao, nao), which all but GHF and GKS take, or with open shells (2, nao, nao) without tags,
    which UHF, UKS, ROHF and ROKS take. GHF and GKS need the SCF object.
    """
    if not isinstance(mol_or_mf, (gto.MoleBase, hf.SCF)):
        raise TypeError(f"tracegrad_guess takes a Mole or an SCF object, not {type(mol_or_mf).__name__}")
    options = GuessOptions(refine, transfer, start, strict, model, spins, fragments, stable)
    guess = guess_or_minao(mol_or_mf, options)
    return (guess.dm, guess.report) if report else guess.dm


def guess_or_minao(mol_or_mf: gto.Mole | hf.SCF, options: GuessOptions, model: Any = None) -> Guess:
    """What `tracegrad_guess` hands over, with the Fock matrix that it was made of; minao with a warning otherwise."""
    mf = None if isinstance(mol_or_mf, gto.MoleBase) else mol_or_mf
    mol = mol_or_mf if mf is None else mf.mol

    def minao() -> Any:
        made = mf if mf is not None else (hf.RHF(mol) if mol.spin == 0 else mol.UHF())
        return _minao_or_core(made, mol, lambda: made.get_init_guess(mol, "minao"))

    options = _with_model(options, model)
    if mf is None and mol.natm == 0:
        return make_guess(mol, options)  # raises: minao needs atoms
    return _guess_or(minao, mol_or_mf, options, mol)


def serve(mf: Any, mol: gto.Mole, options: GuessOptions, minao: Callable[[], Any]) -> Any:
    """Density for an SCF object in the shape that it needs, or `minao()` with a warning; sets `mf.init_guess_report`.

    Raises OutsideDomain instead of falling back if `options.strict`, and BadInput always.
    """
    mf.init_guess_report = None  # not that of an earlier guess, should this one raise
    guess = _guess_or(lambda: _minao_or_core(mf, mol, minao), mf, options, mol)
    mf.init_guess_report = guess.report
    logger.info(mf, "Initial guess from tracegrad: %s", guess.report)
    for note in guess.report.notes:
        logger.debug(mf, "tracegrad guess: %s", note)
    if mf.verbose >= logger.INFO:
        for text in _CITE:
            logger.info(mf, text)
    return guess.dm


def _guess_or(minao: Callable[[], Any], mol_or_mf: Any, options: GuessOptions, mol: gto.Mole) -> Guess:
    """The guess, or `minao()` with a warning; if `options.strict` what went wrong is raised as OutsideDomain."""
    work = _Work(mol_or_mf, mol)
    made = attempt(lambda: work.guess(options), mol_or_mf, options.strict)
    if not isinstance(made, Failure):
        return made
    if options.strict:
        raise made.strictly()
    made.tell(mol_or_mf, "the minao guess")
    report = work.give_up(made)
    return Guess(minao(), report)


def _minao_or_core(mf: Any, mol: gto.Mole, minao: Callable[[], Any]) -> Any:
    """PySCF's minao density, or that of the core Hamiltonian where PySCF 2.14's minao itself fails (Ce with crenbl)."""
    found = attempt(minao, mf, strict=False)
    if not isinstance(found, Failure):
        return found
    logger.warn(mf, "PySCF's minao guess failed (%s). Using the core Hamiltonian's instead.", found.message)
    return mf.get_init_guess(mol, "1e")
