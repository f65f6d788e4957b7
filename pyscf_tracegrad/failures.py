"""The boundary: whatever is raised inside a guess becomes words, and the next best guess serves."""

from __future__ import annotations

import functools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, TypeVar

from pyscf import gto, lib
from pyscf.lib import logger

from pyscf_tracegrad.errors import BadInput, OutsideDomain

T = TypeVar("T")

# Packages whose classes are not the user's own.
_LIBRARIES = ("pyscf", "gpu4pyscf", "pyscf_tracegrad", "builtins")


@dataclass(frozen=True)
class Failure:
    """What ended an attempt.

    message: the reason in words; of an exception of the user's own code, that it is theirs. details: the traceback,
    empty for a refusal (OutsideDomain), whose message says all.
    """

    error: Exception
    message: str
    details: str

    @property
    def refused(self) -> bool:
        """Whether this is no fault but a refusal on purpose."""
        return isinstance(self.error, OutsideDomain)

    def strictly(self) -> OutsideDomain:
        """What to raise: the refusal itself, or an OutsideDomain with the message, and the exception as its cause."""
        if isinstance(self.error, OutsideDomain):
            return self.error
        refusal = OutsideDomain(self.message)
        refusal.__cause__ = self.error
        return refusal

    def tell(self, mol_or_mf: Any, instead: str) -> None:
        """Warn through PySCF's logger, with the traceback at verbose >= 5. instead: what serves now."""
        logger.warn(mol_or_mf, "tracegrad guess: %s. Using %s instead.", self.message, instead)
        if self.details:
            logger.debug(mol_or_mf, "%s", self.details)


def attempt(action: Callable[[], T], mf: Any, strict: bool) -> T | Failure:
    """Result of an action, or the failure that ended it. mf: whose methods may be the user's own.

    strict: keep the local variables of the frames of the traceback, for a debugger; otherwise let go of the arrays in
    them, because what comes next may need the memory. Lets BadInput, KeyboardInterrupt and SystemExit pass.
    """
    try:
        return action()
    except BadInput:
        raise
    # A guess may be useless, but must not end the calculation of a user: here all is caught, and told.
    except Exception as error:  # noqa: BLE001
        details = "" if isinstance(error, OutsideDomain) else "".join(traceback.format_exception(error)).rstrip()
        failure = Failure(error, _in_words(error, mf), details)
        if not strict:
            traceback.clear_frames(error.__traceback__)
        return failure


def _in_words(error: Exception, mf: Any) -> str:
    if isinstance(error, ValueError) and type(error).__module__ == OutsideDomain.__module__:
        return str(error)  # ours
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    culprit = _users_method(frames, mf)
    if culprit:
        return f"your {culprit} raised {text}"
    place = frames[-1]
    name = getattr(place.f_code, "co_qualname", place.f_code.co_name)
    where = place.f_globals.get("__name__", "?") + ("" if name == "<module>" else f".{name}")
    return f"{text} (in {where})"


def _users_method(frames: list[FrameType], mf: Any) -> str:
    """The first function of the user's own that the traceback passes, such as `mf.get_veff`; empty where none is."""
    known: dict[CodeType, str] = {}
    for where, owner in _parts(mf):
        for name, function in _own_functions(owner):
            known.setdefault(function, f"{where}.{name}")
    return next((known[frame.f_code] for frame in frames if frame.f_code in known), "")


def _parts(mf: Any) -> Iterator[tuple[str, Any]]:
    """The object, what it wraps, and the objects that it is made of: integrator, grids, density fitting, molecule."""
    whole = "mol" if isinstance(mf, gto.MoleBase) else "mf"
    yield whole, mf
    for name, part in vars(mf).items():
        if isinstance(part, lib.StreamObject):
            yield (whole if name == "_scf" else f"{whole}.{name}"), part


def _own_functions(owner: Any) -> Iterator[tuple[str, CodeType]]:
    """Code of functions that the user has put on an object, or on classes outside of PySCF that it is of."""
    spaces = [vars(owner)]
    spaces += [vars(base) for base in type(owner).__mro__ if base.__module__.partition(".")[0] not in _LIBRARIES]
    for space in spaces:
        for name, value in space.items():
            code = _code(value)
            if code is not None:
                yield name, code


def _code(function: Any) -> CodeType | None:
    """Code of a function, method, property, partial or callable object; None for anything else, and for PySCF's own."""
    if isinstance(function, functools.partial):
        return _code(function.func)
    if isinstance(function, property):
        return _code(function.fget)
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None and callable(function) and not isinstance(function, type):
        function = type(function).__call__
        code = getattr(function, "__code__", None)
    module = getattr(function, "__module__", None) or ""
    return code if isinstance(code, CodeType) and module.partition(".")[0] not in _LIBRARIES else None
