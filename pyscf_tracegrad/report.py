"""What a guess reports about itself: `mf.init_guess_report`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pyscf_tracegrad.gate import Signals

Route = Literal["network", "reference", "minao"]


@dataclass(frozen=True)
class GuessReport:
    """How a guess came about.

    route: what it started from: `network`, `reference` (F_ref alone) or `minao`.
    transfer: `native` (the network's own basis), `fock` or `density`; empty where the network did not serve.
    refined: whether cheap cycles followed. cheap_builds: cheap Fock builds, those of F_ref included. exact_builds:
    Fock builds of the user's own kind spent in the guess (each costs what one SCF cycle costs).
    gradient: norm of the cheap orbital gradient at the last cheap build, hartree; nan where nothing was refined.
    direct: whether the cheap builds made their integrals anew, because those of the fit exceed `mol.max_memory`.
    signals: what the gate looked at, None where the network did not serve.
    notes: why a better route was not taken, one sentence each, in order.
    seconds: wall time of each stage.
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

    @property
    def reason(self) -> str:
        """The notes in one line."""
        return "; ".join(self.notes)

    @property
    def gate(self) -> dict[str, float]:
        """The gate's signals by name."""
        return {} if self.signals is None else self.signals.values()

    def __str__(self) -> str:
        how = f"{self.route}{', ' + self.transfer if self.transfer else ''}{', refined' if self.refined else ''}"
        builds = f"{self.cheap_builds} cheap and {self.exact_builds} exact Fock builds"
        return f"{how}; {builds}; {sum(self.seconds.values()):.2f} s" + (f"; {self.reason}" if self.notes else "")
