"""What a user may ask of a guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pyscf_tracegrad.models import model_sources

Refine = Literal["auto"] | int | bool
Transfer = Literal["auto", "fock", "density"]
Start = Literal["auto", "network", "reference", "minao"]


@dataclass(frozen=True)
class GuessOptions:
    """Settings of one guess.

    refine: `auto` goes on with cheap cycles and, where that pays, one exact correction; a number is that many cheap
    cycles at most and no exact build; False (or 0) leaves the guess as it is.
    transfer: how the network's answer gets into a basis other than its own: `fock` (F_ref in the user's basis + the
    transformed correction), `density` (projected orbitals), `auto` the better one.
    start: `network`, `reference` (F_ref alone), `minao` (refine from there), or `auto`, the best one that applies.
    strict: raise OutsideDomain for what is not covered or fails, instead of a warning and the next best guess.
    model: the models that may answer, in order: paths of model files, 'shipped', what `load_model` returns; kept as a
    tuple. The first that has the basis and functional of the calculation does. None is the shipped one.

    Raises ValueError for anything else, TypeError for what is no model.
    """

    refine: Refine = "auto"
    transfer: Transfer = "auto"
    start: Start = "auto"
    strict: bool = False
    model: Any = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", model_sources(self.model))
        if self.refine != "auto" and (not isinstance(self.refine, (int, bool)) or self.refine < 0):
            raise ValueError(f"refine takes 'auto', a number of cheap cycles or False, not {self.refine!r}")
        if self.refine is True:
            object.__setattr__(self, "refine", "auto")
        for name, known in (("transfer", get_args(Transfer)), ("start", get_args(Start))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} takes {', '.join(map(repr, known))}, not {getattr(self, name)!r}")

    @property
    def unrefined(self) -> bool:
        """Whether the guess is left as it is."""
        return not self.refine  # False or 0
