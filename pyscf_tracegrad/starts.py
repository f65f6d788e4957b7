"""Where a guess starts: the network where it applies, F_ref alone elsewhere.

`network`: the model's own basis and functional give F directly (`native`); any other calculation goes by one of two
transfers, `fock` (F_ref of the user's calculation + the transformed correction) or `density` (projected orbitals).
`reference`: F_ref of the user's calculation, for each spin; needs no training and takes any element and ECP.

Measured (docs/serving.md): without refinement the network saves cycles everywhere, `fock` more than `density`. With it
the network saves 0.7 cheap builds at its own level of theory, and elsewhere costs more than it saves; so F_ref serves
there.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.scf import hf

from pyscf_tracegrad.calculation import Calculation, State
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.config import ReferenceSettings
from pyscf_tracegrad.density import diagonalise
from pyscf_tracegrad.domain import check_network
from pyscf_tracegrad.earlier import Earlier
from pyscf_tracegrad.errors import BadInput, OutsideDomain
from pyscf_tracegrad.failures import attempt
from pyscf_tracegrad.gate import Gate, Signals, measure_network
from pyscf_tracegrad.models import choose_model, model_sources
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.reference import Pair, Reference, damped_steps
from pyscf_tracegrad.refine import Schedule, refine
from pyscf_tracegrad.spins import SpinPattern
from pyscf_tracegrad.transfer import cross_overlap, native_molecule, project_density, transform_correction

if TYPE_CHECKING:
    from pyscf_tracegrad.pretrained import Prediction, PretrainedModel
    from pyscf_tracegrad.report import Route

Array = NDArray[np.float64]

GRID_LEVEL = 1
STEPS = ReferenceSettings(steps=2, gauge=False)  # the gauge step moves no density


@dataclass(frozen=True)
class Start:
    """A first state of a calculation.

    cheap: operator of the calculation's functional, None where none was needed. pairs: what it was applied to, in the
    form of the calculation. fock: Fock matrix that the state is of, in that form too; None where only a density is
    known. reference: F_ref that it stands on. builds: cheap builds by other operators. signals, notes, seconds, model:
    as in `GuessReport`.
    """

    route: Route
    transfer: str
    state: State
    cheap: CheapFock | None = None
    pairs: tuple[Pair, ...] = ()
    fock: Array | None = None
    reference: Reference | None = None
    builds: int = 0
    signals: Signals | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    model: str = ""


def choose_start(
    calculation: Calculation, options: GuessOptions, model: PretrainedModel | None = None, thin: bool = False
) -> Start:
    """Best start that applies, or the one that `options.start` names. Where the network fails, F_ref and a warning.

    model: instead of those of the options. thin: build by the thinned operator (`CheapFock.thinned`), for what is to be
    refined and corrected; the network was trained on F_ref of level 1, but hardly minds. Raises OutsideDomain where the
    one that was asked for does not apply, or the network fails and the options are strict.
    """
    notes: tuple[str, ...] = ()
    if options.pattern is not None:
        return _spin_pattern(calculation, options, options.pattern, thin)
    if isinstance(options.start, Earlier):
        dm = calculation.in_form(options.start.carried_to(calculation.mol))
        return _from_density(calculation, "earlier", dm, options, thin)
    if options.start in ("auto", "network"):
        begin, before = time.perf_counter(), calculation.builds[0]
        found = attempt(lambda: _network(calculation, options, model, thin), calculation.plain, options.strict)
        if isinstance(found, Start):
            return found
        if options.start == "network" or (options.strict and not found.refused):
            raise found.strictly()
        notes = (found.message,)
        if not found.refused:
            found.tell(calculation.plain, "the reference Fock matrix")
            given_up = {"network, given up": time.perf_counter() - begin}
            builds = calculation.builds[0] - before
            start = _reference(calculation, thin, notes)
            return dataclasses.replace(start, builds=builds, seconds=given_up | start.seconds)
    if options.start == "minao":
        return _from_density(calculation, "minao", calculation.minao(), options, thin)
    return _reference(calculation, thin, notes)


def _on_grid(cheap: CheapFock, thin: bool) -> CheapFock:
    return cheap.thinned() if thin else cheap


def _from_density(calculation: Calculation, route: Route, dm: Any, options: GuessOptions, thin: bool) -> Start:
    """A density itself if nothing refines it; else the orbitals of its Fock matrix, one cheap build."""
    if options.unrefined:
        return Start(route, "", State(None, None, dm))
    cheap = calculation.cheap(GRID_LEVEL)
    begin = time.perf_counter()
    pair = Pair(dm, _on_grid(cheap, thin)(dm))
    state = calculation.first_state(pair.fock)
    seconds = {"set-up": cheap.setup_seconds, "F0": time.perf_counter() - begin}
    return Start(route, "", state, cheap, (pair,), seconds=seconds)


def _spin_pattern(calculation: Calculation, options: GuessOptions, pattern: SpinPattern, thin: bool) -> Start:
    """From spins of atoms or fragments. Raises BadInput where the class or the molecule does not take the pattern."""
    if calculation.form != "unrestricted":
        raise BadInput(f"spins= and fragments= are for UHF, UKS, GHF and GKS, not {type(calculation.plain).__name__}")
    dm = pattern.density(calculation.mol, lambda part: _fragment_density(calculation, part))
    return _from_density(calculation, "spins", dm, options, thin)


def _fragment_density(calculation: Calculation, part: gto.Mole) -> Any:
    """Density (2, n, n) of a fragment's cheap SCF in the functional of the whole."""
    if part.nelectron == 0:
        return np.zeros((2, part.nao, part.nao))
    functional = calculation.functional
    mf = part.UHF() if functional.kind == "HF" else part.UKS(xc=functional.xc)
    mf.init_guess_breaksym = 0
    fragment = Calculation(mf, part)
    start = _reference(fragment, thin=False)
    cheap = start.cheap or fragment.cheap(GRID_LEVEL)
    return refine(fragment, cheap, start.state, start.pairs, Schedule(exact=False, careful=False)).state.dm


def _reference(calculation: Calculation, thin: bool, notes: tuple[str, ...] = ()) -> Start:
    calculation.say("reference Fock matrix")
    cheap = calculation.cheap(GRID_LEVEL)
    seconds = {"set-up": cheap.setup_seconds}
    reference = damped_steps(_on_grid(cheap, thin), calculation.minao(), calculation.nelec, STEPS, seconds)
    return _from_reference(calculation, cheap, reference, notes)


def _from_reference(
    calculation: Calculation,
    cheap: CheapFock | None,
    reference: Reference,
    notes: tuple[str, ...],
    seconds: dict[str, float] | None = None,
    signals: Signals | None = None,
) -> Start:
    fock = calculation.spread(reference.fock)
    pairs = _spread(calculation, reference.pairs)
    times = reference.seconds if seconds is None else seconds
    state = calculation.first_state(fock)
    return Start("reference", "", state, cheap, pairs, fock, reference, signals=signals, notes=notes, seconds=times)


def _spread(calculation: Calculation, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    """Closed-shell pairs in the form of the calculation."""
    if calculation.form == "restricted" or (pairs and pairs[0].fock.ndim == 3):
        return pairs
    return tuple(Pair(np.stack([0.5 * p.dm, 0.5 * p.dm]), calculation.spread(p.fock)) for p in pairs)


def _network(calculation: Calculation, options: GuessOptions, model: PretrainedModel | None, thin: bool) -> Start:
    """Raises OutsideDomain where the network does not apply, or the gate objects."""
    mol = calculation.mol
    check_network(mol)
    if not calculation.closed_shell:
        raise OutsideDomain("the network does not break spin symmetry")
    begin = time.perf_counter()
    sources = options.model if model is None else model_sources(model)
    chosen = choose_model(sources, mol, lambda xc: _same_theory(calculation, xc))
    native, same_theory = chosen.native, chosen.same_theory
    if not (same_theory or options.start == "network" or options.transfer != "auto" or options.unrefined):
        raise OutsideDomain("for another basis or functional cheap cycles cost less from F_ref than from the network")
    calculation.say(f"network ({chosen.name})")
    model = chosen.load()
    checkpoint, loading = model.checkpoint, {"loading": time.perf_counter() - begin}
    cheap: CheapFock | None = None
    if native:
        cheap = calculation.cheap(GRID_LEVEL)
        own = cheap if same_theory else cheap.with_theory(checkpoint.xc, hf.get_hcore(mol))
        prediction = model.predict(mol, _on_grid(own, thin))
        seconds = loading | {"set-up": cheap.setup_seconds} | prediction.seconds
    else:
        prediction = model.predict(native_molecule(mol, checkpoint.basis))  # raises for elements that it does not know
        seconds = loading | prediction.seconds
    begin = time.perf_counter()
    signals, objection = _gate(prediction)
    seconds["gate"] = time.perf_counter() - begin
    if same_theory and (objection or prediction.route == "reference"):
        note = objection or "the model leaves ions to F_ref"
        return _from_reference(calculation, cheap, prediction.reference, (note,), seconds, signals)
    if objection or prediction.route == "reference":
        raise OutsideDomain(objection or "the model leaves ions to F_ref")
    if same_theory:
        begin = time.perf_counter()
        fock, reference = calculation.spread(prediction.fock), prediction.reference
        state = calculation.first_state(fock)
        seconds["diagonalisation"] = time.perf_counter() - begin
        pairs = _spread(calculation, reference.pairs)
        found = Start("network", "native", state, cheap, pairs, fock, reference, signals=signals, seconds=seconds)
        return dataclasses.replace(found, model=chosen.name)
    settings = checkpoint.model.config.reference
    found = _transferred(calculation, options, _Answer(prediction, signals, cheap, seconds, settings), thin)
    return dataclasses.replace(found, model=chosen.name)


def _same_theory(calculation: Calculation, xc: str) -> bool:
    """Whether F is defined as in the labels: functional, Coulomb operator, one-electron Hamiltonian, no solvent."""
    if calculation.solvated or calculation.mol.omega:
        return False
    if not calculation.functional.is_named(xc, spins=1 if calculation.form == "restricted" else 2):
        return False
    return np.allclose(hf.get_hcore(calculation.mol), calculation.hcore, rtol=0, atol=1e-10)


def _gate(prediction: Prediction) -> tuple[Signals, str]:
    signals = measure_network(prediction)
    objection = Gate().objection(signals)
    return signals, f"the gate rejected the network: {objection}" if objection else ""


@dataclass(frozen=True)
class _Answer:
    """The network's answer in its own basis. cheap: the user's operator where that stands in the same basis. settings:
    of the F_ref that it corrects.
    """

    prediction: Prediction
    signals: Signals
    cheap: CheapFock | None
    seconds: dict[str, float]
    settings: ReferenceSettings


def _transferred(calculation: Calculation, options: GuessOptions, answer: _Answer, thin: bool) -> Start:
    """The network's answer for another basis, functional or Hamiltonian."""
    route = options.transfer
    if route == "auto":
        route = "fock" if answer.settings.strategy == "minao" else "density"
    elif route == "fock" and answer.settings.strategy != "minao":
        raise OutsideDomain("the model's F_ref makes no Fock build, so its correction has none to stand on elsewhere")
    mol, prediction = calculation.mol, answer.prediction
    builds = prediction.reference.cheap.builds if prediction.reference.cheap and answer.cheap is None else 0
    seconds = answer.seconds
    begin = time.perf_counter()
    cross = cross_overlap(prediction.mol, mol)
    if route == "density":
        orbitals = diagonalise(prediction.fock, prediction.overlap)
        dm = project_density(orbitals.coefficients[:, : mol.nelectron // 2], cross, calculation.overlap)
        state = calculation.closed_shell_state(dm)
        seconds = seconds | {"transfer": time.perf_counter() - begin}
        return Start("network", route, state, answer.cheap, builds=builds, signals=answer.signals, seconds=seconds)
    correction = transform_correction(prediction.correction, prediction.overlap, cross)
    seconds = seconds | {"transfer": time.perf_counter() - begin}
    cheap = answer.cheap or calculation.cheap(GRID_LEVEL)
    begin = time.perf_counter()
    settings = dataclasses.replace(answer.settings, gauge=False)  # the same steps that dF is the correction of
    reference = damped_steps(_on_grid(cheap, thin), calculation.minao(), calculation.nelec, settings, {})
    seconds = seconds | {"reference": time.perf_counter() - begin}
    fock = calculation.spread(reference.fock) + correction
    state, pairs = calculation.first_state(fock), _spread(calculation, reference.pairs)
    found = Start("network", route, state, cheap, pairs, fock, reference, builds=builds, seconds=seconds)
    return dataclasses.replace(found, signals=answer.signals)
