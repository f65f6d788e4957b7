"""What a guess reports about itself: `mf.init_guess_report`."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

from pyscf_tracegrad.gate import Signals

Route = Literal["network", "reference", "minao", "spins", "earlier"]

_NAMES = {
    "network": "network",
    "reference": "reference Fock matrix",
    "minao": "PySCF's minao",
    "spins": "spin pattern",
    "earlier": "earlier density",
}
_CARRIED = {"fock": " (its correction carried over)", "density": " (its density projected)"}


@dataclass(frozen=True)
class GuessReport:
    """How a guess came about.

    route: what it started from: `network`, `reference` (F_ref alone), `minao`, `spins` (a spin pattern) or `earlier`
    (an earlier density).
    transfer: `native` (the network's own basis), `fock` or `density`; empty where the network did not serve.
    model: which model served: `shipped`, the path of its file, or `given`; empty where none did.
    refined: whether cheap cycles followed. cheap_builds: cheap Fock builds, those of F_ref and of attempts that were
    given up included. exact_builds: Fock builds of the user's own kind spent in the guess (each costs what one SCF
    cycle costs).
    gradient: norm of the cheap orbital gradient at the last cheap build, hartree; nan where nothing was refined.
    direct: whether the cheap builds made their integrals anew, because those of the fit exceed `mol.max_memory`.
    signals: what the gate looked at, None where the network did not serve.
    notes: why a better route was not taken, one sentence each, in order.
    suspicion: the sign for which other SCF states were looked for; empty where there was none. origin: `guess` or
    `minao`, the start that led to the state of lowest energy; empty where one state only was looked at. unstable:
    whether that state is known to have a lower neighbour.
    seconds: wall time of each stage; `loading` is that of torch and the model.
    """

    route: Route
    transfer: str = ""
    refined: bool = False
    cheap_builds: int = 0
    exact_builds: int = 0
    gradient: float = float("nan")
    direct: bool = False
    signals: Signals | None = None
    notes: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    model: str = ""
    suspicion: str = ""
    origin: str = ""
    unstable: bool = False

    @property
    def reason(self) -> str:
        """The notes in one line."""
        return "; ".join(self.notes)

    @property
    def gate(self) -> dict[str, float]:
        """The gate's signals by name."""
        return {} if self.signals is None else self.signals.values()

    @property
    def total(self) -> float:
        """Wall time of the guess, seconds."""
        return sum(self.seconds.values())

    def to_dict(self) -> dict[str, Any]:
        """All fields and `total` as plain values for JSON; numbers that are not finite are None."""
        plain: dict[str, Any] = _plain(dataclasses.asdict(self) | {"total": self.total})
        return plain

    def __str__(self) -> str:
        how = _NAMES[self.route] + _CARRIED.get(self.transfer, "") + (", refined" if self.refined else "")
        return f"{how}: {self.cheap_builds} cheap and {self.exact_builds} exact Fock builds, {self.total:.2f} s"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value
