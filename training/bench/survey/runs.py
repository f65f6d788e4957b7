"""One case from one start, as a user would run it: `mf.init_guess = ...; mf.kernel()`."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import math
import time
import warnings
from ast import literal_eval
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyscf
from pyscf.lib import logger

import pyscf_tracegrad
from training.bench.common import GUESSES, Result, message, outcome, read_report
from training.bench.survey.cases import Case

PYSCF = ("minao", "atom")
_NEWTON = "+newton"


class UnknownRoute(ValueError):
    """A route that nothing serves."""


@dataclass(frozen=True)
class Row(Result):
    """One SCF. case: its fingerprint. state: that of the code which made the guess; a row of another state is old.

    cpu: processor seconds of guess and SCF. warnings: what PySCF's logger, or a numerical library, warned of.
    """

    group: str = ""
    case: str = ""
    state: str = ""
    cpu: float = math.nan
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """That of its `Case`."""
        return f"{self.group}/{self.molecule}/{self.level}"


@dataclass(frozen=True)
class Route:
    """How an SCF is started: `NAME[,OPTION=VALUE...][+newton]`.

    NAME is `minao`, `atom`, or one of `common.GUESSES`, whose options may be added to; `+newton` runs the second-order
    solver from that guess.
    """

    text: str
    guess: str
    options: dict[str, Any]
    newton: bool

    @classmethod
    def parse(cls, text: str) -> Route:
        """Raises UnknownRoute."""
        name, *words = text.removesuffix(_NEWTON).split(",")
        pairs = [word.partition("=")[::2] for word in words]
        if name not in (*PYSCF, *GUESSES) or (name in PYSCF and pairs) or not all(value for _, value in pairs):
            known = ", ".join((*PYSCF, *GUESSES))
            raise UnknownRoute(f"{text!r} is no route: NAME[,OPTION=VALUE...][{_NEWTON}], NAME one of {known}")
        options = GUESSES.get(name, {}) | {key: _value(value) for key, value in pairs}
        return cls(text, name if name in PYSCF else "tracegrad", options, text.endswith(_NEWTON))

    @property
    def ours(self) -> bool:
        """Whether it depends on the code of this package."""
        return self.guess not in PYSCF

    @property
    def state(self) -> str:
        """What made its rows: PySCF's version, and a digest of the package where that serves."""
        return f"pyscf-{pyscf.__version__}" + (f",{package_digest()}" if self.ours else "")


Task = tuple[Case, Route]


def _value(text: str) -> Any:
    try:
        return literal_eval(text)
    except (ValueError, SyntaxError):
        return text


@functools.lru_cache(maxsize=1)
def package_digest() -> str:
    """Of the package's sources and weights, as they are when it is first asked for."""
    root = Path(pyscf_tracegrad.__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.sha256")]):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def empty_row(case: Case, start: Route, **fields: Any) -> Row:
    """What is known before anything has run, and these fields."""
    m = case.molecule
    return Row(
        m.name,
        case.level.name,
        start.text,
        0,
        m.n_atoms,
        nao=fields.pop("nao", 0),
        charge=m.charge,
        spin=m.spin,
        group=case.group,
        case=case.fingerprint,
        state=start.state,
        **fields,
    )


def run_task(task: Task) -> Row:
    """Guess and SCF of a fresh object. What raises becomes a row with the message."""
    case, route = task
    fields: dict[str, Any] = {}
    with _listening() as said:
        wall, cpu = time.perf_counter(), time.process_time()
        try:
            mf = case.level.make_mf(case.molecule)
            fields["nao"] = int(mf.mol.nao)
            mf.verbose, mf.stdout = logger.WARN, io.StringIO()
            mf.mol.verbose, mf.mol.stdout = mf.verbose, mf.stdout
            if route.newton:
                mf = mf.newton()
            wall, cpu = time.perf_counter(), time.process_time()
            _start(mf, route)
            report = getattr(mf, "init_guess_report", None)
            fields |= {"route": route.guess} if report is None else read_report(report)
            fields["guess_seconds"] = sum(getattr(report, "seconds", {"": math.nan}).values())
            fields |= outcome(mf, fields.get("exact_builds", 0))
        except Exception as error:  # noqa: BLE001  (a failure is a row of the table, whatever it is)
            fields["error"] = message(error)
        fields |= {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    return empty_row(case, route, **fields, warnings=tuple(said))


def _start(mf: Any, route: Route) -> None:
    """Run it: by the key alone where there are no options, which no attribute of an SCF object takes."""
    mf.init_guess = route.guess
    if route.options:
        mf.kernel(dm0=mf.get_init_guess(mf.mol, route.guess, **route.options))
    else:
        mf.kernel()


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """What PySCF's logger warns of on stderr, each once, and what Python warns of."""
    said: list[str] = []
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield said
    lines = [line.removeprefix("WARN: ") for line in errors.getvalue().splitlines() if line.startswith("WARN: ")]
    numerical = [f"{w.category.__name__}: {w.message}" for w in caught if issubclass(w.category, RuntimeWarning)]
    said += dict.fromkeys(" ".join(line.split())[:200] for line in (*lines, *numerical))
