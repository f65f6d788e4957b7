"""What is patched into PySCF: `mf.init_guess = 'tracegrad'`, its report, and on demand that this is the default.

`pyscf.scf.hf.SCF.get_init_guess` is the one method that every molecular class passes, whatever it is wrapped in, and
periodic ones too. PySCF runs minao without a word for a key it does not know; the wrapper takes our key before that.

`mf.init_guess_report` is a class attribute, None, and of an object the report of its last run. PySCF asks for a guess
only where it has no density to start from, so a run that starts from another one must be seen too: every class, with
newton() and four components, calls `SCF.dump_flags()` without arguments at the beginning of a run, and nothing else
does. A wrapper of it, and one of `SCF.reset`, drop the report of the run before.

gpu4pyscf's SCF class is no subclass of PySCF's: it takes methods over when it is imported. Imported after us it takes
our wrappers; imported before us it is given wrappers of its own. All stand aside after `unregister`, because a wrapper
serves only while `hf.SCF` carries the options that `register` puts there. So no import hook is needed.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, Literal

from pyscf import __config__
from pyscf.lib import logger
from pyscf.scf import hf

from pyscf_tracegrad.failures import Failure, attempt
from pyscf_tracegrad.guess import serve
from pyscf_tracegrad.models import SHIPPED, check_files, model_sources
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.report import GuessReport

KEY = "tracegrad"

REPORT = "init_guess_report"

# Attribute of an object: unpaired electrons of its atoms, the option `spins` of the key.
SPINS = "init_guess_spins"

# Class attribute of hf.SCF: the GuessOptions of `register`, there only while the key is registered.
_OPTIONS = "_tracegrad_options"

# Name in PySCF's config file of the models that `autoload --model` writes there.
_CONFIGURED = "tracegrad_models"

# What PySCF's own `get_init_guess` and `init_guess_by_*` take, besides mol and key, in any version; no guess of ours
# needs it.
PYSCF_KEYWORDS = frozenset({"s1e", "sap_basis", "breaksym", "chkfile", "project", "updated_rule"})

# Names in the code of our wrappers and of the stub that `autoload` writes. functools.wraps, which gpu4pyscf uses on
# what it takes over, copies every attribute of a function, but not its code: only this tells ours from one around ours.
_OUR_CODE = ("tracegrad_wrapper", "tracegrad_run", "tracegrad_reset", "tracegrad_autoload")

# Classes that keep their own default guess: periodic, four- and two-component ones, and the spherical atoms that PySCF
# itself computes for its guess 'atom'. By name, because most are not imported, or are imported after `set_default`.
_OTHER_DEFAULT = (
    "pyscf.pbc.",
    "gpu4pyscf.pbc.",
    "pyscf.scf.dhf.DHF",
    "pyscf.x2c.x2c.SCF",
    "pyscf.scf.atom_hf.",
    "pyscf.scf.atom_ks.",
)


def register(
    strict: bool = False,
    refine: Literal["auto"] | int | bool = "auto",
    transfer: Literal["auto", "fock", "density"] = "auto",
    model: Any = None,
    shipped: bool = True,
    stable: bool = False,
) -> None:
    """Make `init_guess='tracegrad'` (in any case) known to PySCF; again with other options changes only these.

    The options are the defaults of the key; a single call overrides them:
    `mf.get_init_guess(key='tracegrad', strict=True, refine=False, transfer='density', model='mine.pt')`.

    Parameters
    ----------
    strict : bool
        Raise OutsideDomain for calculations that are not covered, instead of a warning and the next best guess.
    refine, transfer, stable
        As in `GuessOptions`.
    model : str, PathLike, PretrainedModel, or a list of these, optional
        Models of the key: paths of model files, read at the first guess that may need them, or what `load_model`
        returns. The first that has the basis and the functional of a calculation answers. If not given, those that
        `python -m pyscf_tracegrad autoload --model` has written into PySCF's config file.
    shipped : bool
        Whether the shipped model comes after them. `model=` of a single call takes nothing but what it is given.

    Raises
    ------
    ValueError
        For an option that `GuessOptions` does not know, and TypeError for what is no model; what was registered stays.
    CheckpointError
        For a path where no file is.
    """
    if model is None:
        sources = model_sources(getattr(__config__, _CONFIGURED, None))  # may be gone by now: told at the first guess
    else:
        sources = model_sources(model)
        check_files(sources)
    if not (sources or shipped):
        raise ValueError("shipped=False leaves no model: give one by model=")
    if shipped and SHIPPED not in sources:
        sources = (*sources, SHIPPED) if sources else ()
    options = GuessOptions(refine=refine, transfer=transfer, strict=strict, model=sources, stable=stable)
    _remove_wrappers()
    for owner in _scf_classes():
        for name, wrapper in _WRAPPERS.items():
            if name in vars(owner):
                setattr(owner, name, wrapper(getattr(owner, name)))
    _make_known()
    setattr(hf.SCF, _OPTIONS, options)
    if _class_default(hf.SCF) == KEY:  # from PySCF's config file, where a name is all that can be said
        set_default()


def unregister() -> None:
    """Give PySCF and gpu4pyscf their own methods and default back; does nothing where it is not registered."""
    set_default(False)
    _remove_wrappers()
    if hasattr(hf.SCF, _OPTIONS):
        delattr(hf.SCF, _OPTIONS)
    for owner in _scf_classes():
        for name in (REPORT, SPINS):
            owner._keys.discard(name)
            if name in vars(owner):
                delattr(owner, name)


def set_default(on: bool = True) -> None:
    """Make 'tracegrad' the default guess of molecular SCF objects, registering it where it is not.

    It holds for objects made afterwards and before, unless their `init_guess` has been set. Periodic, four- and
    two-component classes (DHF, X2C) keep their own default.

    on: False gives the default back that PySCF had.
    """
    if on and not hasattr(hf.SCF, _OPTIONS):
        register()
    for owner in _scf_classes():
        now = _class_default(owner)
        if on and not isinstance(now, _Default):
            default = _Default(KEY)
            default.previous = "minao" if now == KEY else now
            owner.init_guess = default
        elif not on and isinstance(now, _Default):
            owner.init_guess = now.previous


def unset_default() -> None:
    """`set_default(False)`: the default guess that PySCF had."""
    set_default(False)


def dispatch(original: Callable[..., Any], mf: Any, mol: Any, key: Any, keywords: dict[str, Any]) -> Any:
    """`mf.get_init_guess(mol, key, **keywords)` where `original` is the method without us: our guess for our key.

    The lines that `autoload` writes into PySCF's config file call this by its name.

    Returns the density in the shape that mf needs, PySCF AO order, an array of gpu4pyscf's kind for an object of its;
    with `report=True` also the report. Sets `mf.init_guess_report`. Raises OutsideDomain if strict, ValueError for an
    unknown value of an option, TypeError for an unknown option.
    """
    options = getattr(hf.SCF, _OPTIONS, None)
    if options is None or not isinstance(key, str) or key.lower() != KEY:
        return original(mf, mol, key, **keywords)
    mol = mf.mol if mol is None else mol
    with_report = _check_keywords(mf, keywords)
    given = {name: keywords[name] for name in _OPTION_NAMES & keywords.keys()}
    if getattr(mf, SPINS, None) is not None and not {"spins", "fragments", "start"} & given.keys():
        given["spins"] = getattr(mf, SPINS)
    options = dataclasses.replace(options, **given)
    minao = functools.partial(original, mf, mol, "minao")
    found = attempt(lambda: _on_cpu(mf), mf, options.strict)
    if isinstance(found, Failure):
        if options.strict:
            raise found.strictly()
        found.tell(mf, "the minao guess")
        setattr(mf, REPORT, GuessReport("minao", notes=(found.message,)))
        dm = minao()
    else:
        try:
            dm = serve(found, mol, options, minao)
        finally:
            if found is not mf:
                _copy_report(found, mf)
    # PySCF hands a density through that it is given for a key, and gpu4pyscf makes it an array of its own kind
    dm = original(mf, mol, dm)
    return (dm, getattr(mf, REPORT)) if with_report else dm


def _check_keywords(mf: Any, keywords: dict[str, Any]) -> bool:
    """Refuse what is neither an option of ours nor a keyword of PySCF's; whether the report is asked for.

    PySCF's `kernel` hands on every keyword that it does not know, and the overlap `s1e`; no guess of PySCF's minds what
    it does not know. A run that has begun is not ended by that, but it is told.
    """
    unknown = sorted(keywords.keys() - _OPTION_NAMES - PYSCF_KEYWORDS - {"report"})
    in_kernel = "s1e" in keywords
    if unknown:
        known = ", ".join(sorted(_OPTION_NAMES | {"report"}))
        text = f"the guess 'tracegrad' has no option {', '.join(map(repr, unknown))}; it has {known}"
        if not in_kernel:
            raise TypeError(text)
        logger.warn(mf, "%s", text)
    with_report = bool(keywords.get("report")) and not in_kernel
    if with_report and mf.verbose >= logger.DEBUG1:
        raise TypeError(
            "report=True cannot be had at verbose >= 6, where PySCF prints of what comes back: "
            "read mf.init_guess_report"
        )
    return with_report


def _forget(mf: Any) -> None:
    """Drop the report of an earlier run."""
    if hasattr(hf.SCF, _OPTIONS):
        vars(mf).pop(REPORT, None)
        _make_known()


def _make_known() -> None:
    """Our attributes as those of the classes, gpu4pyscf's as well, which may be imported after `register`."""
    for owner in _scf_classes():
        for name in (REPORT, SPINS):
            setattr(owner, name, None)
            owner._keys.add(name)  # PySCF warns of attributes that it does not know


class _Default(str):
    """The class attribute `init_guess` while our key is the default: 'tracegrad', or `previous` for other classes.

    A descriptor, because the classes that keep their default inherit the attribute, and may not be imported yet. A
    string too, so that gpu4pyscf, which copies the attribute when it is imported, takes the descriptor along. Without
    __set__: `mf.init_guess = ...` is an attribute of the object as ever.
    """

    __slots__ = ("previous",)

    previous: str

    def __get__(self, instance: Any, owner: type) -> str:
        if any(f"{base.__module__}.{base.__qualname__}".startswith(_OTHER_DEFAULT) for base in owner.__mro__):
            return self.previous
        return self if instance is None else KEY


def _class_default(owner: Any) -> str:
    """The class attribute itself, not what it gives as a descriptor."""
    default: str = vars(owner)["init_guess"]
    return default


def _scf_classes() -> list[Any]:
    """PySCF's SCF class, and gpu4pyscf's if somebody imported it; it is in the middle of that where SCF is missing."""
    gpu = getattr(sys.modules.get("gpu4pyscf.scf.hf"), "SCF", None)
    return [hf.SCF] if gpu is None else [hf.SCF, gpu]


def _guess_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def tracegrad_wrapper(self: Any, mol: Any = None, key: Any = "minao", **keywords: Any) -> Any:
        return dispatch(original, self, mol, key, keywords)

    return tracegrad_wrapper


def _run_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def tracegrad_run(self: Any, verbose: Any = None) -> Any:
        if verbose is None:  # a user who wants to see the flags gives the verbosity
            _forget(self)
        return original(self, verbose)

    return tracegrad_run


def _reset_wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def tracegrad_reset(self: Any, *arguments: Any, **keywords: Any) -> Any:
        _forget(self)
        return original(self, *arguments, **keywords)

    return tracegrad_reset


_WRAPPERS = {"get_init_guess": _guess_wrapper, "dump_flags": _run_wrapper, "reset": _reset_wrapper}

_OPTION_NAMES = frozenset(field.name for field in dataclasses.fields(GuessOptions))


def _remove_wrappers() -> None:
    """Take off our wrappers, or the stub of `autoload`. One that others have wrapped stays, and stands aside."""
    for owner in _scf_classes():
        for name in _WRAPPERS:
            while _is_ours(vars(owner).get(name)):
                setattr(owner, name, vars(owner)[name].__wrapped__)


def _is_ours(function: Any) -> bool:
    return getattr(getattr(function, "__code__", None), "co_name", "") in _OUR_CODE


def _on_cpu(mf: Any) -> Any:
    """The object itself, or PySCF's equivalent of one of gpu4pyscf; what has none is left for the check to refuse."""
    if isinstance(mf, hf.SCF) or not callable(getattr(type(mf), "to_cpu", None)):
        return mf
    return mf.to_cpu()


def _copy_report(host: Any, mf: Any) -> None:
    """The report of the guess from the object that served to the one of the user."""
    report = vars(host).get(REPORT)
    if report is not None:
        setattr(mf, REPORT, report)
    _make_known()
