"""The only monkey patch: `mf.init_guess = 'tracegrad'`, and on demand that this is the default.

`pyscf.scf.hf.SCF.get_init_guess` is the one method that every molecular class passes, whatever it is wrapped in, and
periodic ones too. PySCF runs minao without a word for a key it does not know; the wrapper takes our key before that.

gpu4pyscf's SCF class is no subclass of PySCF's: it takes the method over when it is imported. Imported after us it
takes our wrapper; imported before us it is given a wrapper of its own. Both stand aside after `unregister`, because a
wrapper serves only while `hf.SCF` carries the options that `register` puts there. So no import hook is needed.
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Callable
from typing import Any, Literal

from pyscf.scf import hf

from pyscf_tracegrad.guess import serve
from pyscf_tracegrad.options import GuessOptions

KEY = "tracegrad"

REPORT = "init_guess_report"

# Class attribute of hf.SCF: the GuessOptions of `register`, there only while the key is registered.
_OPTIONS = "_tracegrad_options"

# Names in the code of our wrapper and of the stub that `autoload` writes. functools.wraps, which gpu4pyscf uses on what
# it takes over, copies every attribute of a function, but not its code: only this tells ours from one around ours.
_OUR_CODE = ("tracegrad_wrapper", "tracegrad_autoload")

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
) -> None:
    """Make `init_guess='tracegrad'` (in any case) known to PySCF; again with other options changes only these.

    The options are the defaults of the key; a single call overrides them:
    `mf.get_init_guess(key='tracegrad', strict=True, refine=False, transfer='density')`.

    Parameters
    ----------
    strict : bool
        Raise OutsideDomain for calculations that are not covered, instead of a warning and minao.
    refine, transfer
        As in `GuessOptions`.

    Raises
    ------
    ValueError
        For an option that `GuessOptions` does not know; what was registered stays.
    """
    options = GuessOptions(refine=refine, transfer=transfer, strict=strict)
    _remove_wrappers()
    for owner in _scf_classes():
        owner.get_init_guess = _wrapper(owner.get_init_guess)
        owner._keys.add(REPORT)  # PySCF warns of attributes that it does not know
    setattr(hf.SCF, _OPTIONS, options)
    if _class_default(hf.SCF) == KEY:  # from PySCF's config file, where a name is all that can be said
        set_default()


def unregister() -> None:
    """Give PySCF and gpu4pyscf their own `get_init_guess` and default back; does nothing where it is not registered."""
    set_default(False)
    _remove_wrappers()
    if hasattr(hf.SCF, _OPTIONS):
        delattr(hf.SCF, _OPTIONS)
    for owner in _scf_classes():
        owner._keys.discard(REPORT)


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

    Returns the density in the shape that mf needs, PySCF AO order, an array of gpu4pyscf's kind for an object of its.
    Sets `mf.init_guess_report`. Raises OutsideDomain if strict, ValueError for an unknown value of an option.
    """
    options = getattr(hf.SCF, _OPTIONS, None)
    if options is None or not isinstance(key, str) or key.lower() != KEY:
        return original(mf, mol, key, **keywords)
    mol = mf.mol if mol is None else mol
    names = {field.name for field in dataclasses.fields(options)}
    options = dataclasses.replace(options, **{name: keywords[name] for name in names & keywords.keys()})
    host = _on_cpu(mf)
    try:
        dm = serve(host, mol, options, functools.partial(original, mf, mol, "minao"))
    finally:
        if host is not mf:
            _copy_report(host, mf)
    # PySCF hands a density through that it is given for a key, and gpu4pyscf makes it an array of its own kind
    return original(mf, mol, dm)


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


def _wrapper(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def tracegrad_wrapper(self: Any, mol: Any = None, key: Any = "minao", **keywords: Any) -> Any:
        return dispatch(original, self, mol, key, keywords)

    return tracegrad_wrapper


def _remove_wrappers() -> None:
    """Take off our wrapper, or the stub of `autoload`. One that others have wrapped stays, and stands aside."""
    for owner in _scf_classes():
        while _is_ours(owner.get_init_guess):
            owner.get_init_guess = owner.get_init_guess.__wrapped__


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
    for owner in _scf_classes():  # gpu4pyscf may have been imported after `register`
        owner._keys.add(REPORT)
