"""What a user may ask of a guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

from pyscf_tracegrad.earlier import Earlier
from pyscf_tracegrad.models import model_sources
from pyscf_tracegrad.spins import SpinPattern

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
    start: `network`, `reference` (F_ref alone), `minao` (refine from there), or `auto`, the best one that applies; or
    an earlier density: a checkpoint file, an SCF object that has run, `(mol, dm)` of the same atoms at another geometry
    or in another basis, `dm` of the same molecule; kept as an `Earlier`.
    strict: raise OutsideDomain for what is not covered or fails, instead of a warning and the next best guess.
    model: the models that may answer, in order: paths of model files, 'shipped', what `load_model` returns; kept as a
    tuple. The first that has the basis and functional of the calculation does. None is the shipped one.

    spins: unpaired electrons (2S, signed) of atoms by 0-based index, which add up to `mol.spin`; fragments: parts of
    the molecule as (atoms, charge, 2S), which make it up. Either is the spin pattern to start from, for UHF, UKS, GHF
    and GKS.
    stable: test the internal stability of the state that is found, and follow it down where it has a lower neighbour.

    Raises ValueError for anything else, TypeError for what is no model.
    """

    refine: Refine = "auto"
    transfer: Transfer = "auto"
    start: Any = "auto"
    strict: bool = False
    model: Any = ()
    spins: Any = None
    fragments: Any = None
    stable: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", model_sources(self.model))
        if self.refine != "auto" and (not isinstance(self.refine, (int, bool)) or self.refine < 0):
            raise ValueError(f"refine takes 'auto', a number of cheap cycles or False, not {self.refine!r}")
        if self.refine is True:
            object.__setattr__(self, "refine", "auto")
        if self.transfer not in get_args(Transfer):
            raise ValueError(f"transfer takes {', '.join(map(repr, get_args(Transfer)))}, not {self.transfer!r}")
        named = isinstance(self.start, str) and self.start in get_args(Start)
        if not named and not isinstance(self.start, Earlier):
            object.__setattr__(self, "start", Earlier.of(self.start))
        if self.pattern is not None and not (named and self.start == "auto"):
            raise ValueError("give start= or a spin pattern, not both")

    @property
    def pattern(self) -> SpinPattern | None:
        """The spin pattern to start from, if there is one."""
        return SpinPattern.of(self.spins, self.fragments)

    @property
    def chosen(self) -> bool:
        """Whether the user has chosen the state to start from, which is then not compared with minao's."""
        return self.pattern is not None or isinstance(self.start, Earlier)

    @property
    def unrefined(self) -> bool:
        """Whether the guess is left as it is."""
        return not self.refine  # False or 0
