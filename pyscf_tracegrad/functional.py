"""The functional of a calculation: what evaluates it, and whether it is the one of the labels.

A name does not tell. `b3lyp`, `B3LYPG` and `.2*HF + .08*SLATER + .72*B88, .81*LYP + .19*VWNRPA` are one functional;
`b3lyp` is another one where PySCF's config file has B3LYP_WITH_VWN5; and an object whose `xc` still says b3lyp has
whatever `define_xc_`, `omega`, `nlc`, xcfun or `register_custom_functional_` gave it. So the cheap operator evaluates a
functional by the user's own NumInt, and two functionals are the same if they give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pyscf import dft
from pyscf.dft import numint, numint2c

Array = NDArray[np.float64]

# Names that are other functionals where PySCF's config file has B3LYP_WITH_VWN5, and what they are without one.
_WITHOUT_CONFIG = {"b3lyp": "b3lypg", "b3p86": "b3p86g", "x3lyp": "x3lypg"}

# What `define_xc_` replaces on a NumInt, and `NumInt.eval_xc_eff` and `rsh_and_hybrid_coeff` ask.
_ASKED = {"eval_xc", "eval_xc1", "eval_xc_eff", "hybrid_coeff", "rsh_coeff", "_xc_type", "rsh_and_hybrid_coeff"}


@dataclass(frozen=True)
class Functional:
    """What `CheapFock` evaluates.

    xc: PySCF's description, for `numint` to read. numint: evaluates it; an object of the user's is not changed. kind:
    LDA, GGA, MGGA or HF. omega, alpha, hybrid: range separation (1/bohr) and exact exchange of long and short range.
    notes: what of the user's functional is not known here, one sentence each.
    """

    xc: str
    numint: Any
    kind: str
    omega: float
    alpha: float
    hybrid: float
    notes: tuple[str, ...] = ()

    @classmethod
    def named(cls, xc: str) -> Functional:
        """By PySCF's name or description, as PySCF has it without a config file, which labels were made with.

        Raises PySCF's KeyError for one that it does not know.
        """
        return _evaluated_by(numint.NumInt(), _WITHOUT_CONFIG.get(xc.strip().lower(), xc))

    @classmethod
    def of(cls, mf: Any) -> Functional:
        """That of an SCF object; `hf` where it is no Kohn-Sham one."""
        if not isinstance(mf, dft.rks.KohnShamDFT):
            return cls.named("hf")
        ni, xc = mf._numint, mf.xc
        notes = () if not mf.do_nlc() else (f"the cheap cycles leave the non-local correlation of {xc!r} out",)
        replaced = {name for name, value in vars(ni).items() if callable(value)} - _ASKED
        if type(ni) not in (numint.NumInt, numint2c.NumInt2C) or replaced:
            unknown = f"the cheap cycles know nothing of {type(ni).__module__}.{type(ni).__name__}"
            return _evaluated_by(numint.NumInt(), xc, (*notes, f"{unknown} and evaluate {xc!r} as PySCF does"))
        if isinstance(ni, numint2c.NumInt2C):
            ni = ni._to_numint1c()
        return _evaluated_by(ni, xc, notes)

    def is_named(self, xc: str, spins: int = 1) -> bool:
        """Whether this is the functional of that name: the same exchange, energies and potentials.

        spins: 2 if densities of two spins are to have the same too.
        """
        if self.notes:
            return False
        other = Functional.named(xc)
        if self.kind != other.kind or not np.allclose(self._exchange, other._exchange, rtol=0, atol=1e-10):
            return False
        if self.kind == "HF":
            return True
        return all(np.allclose(self._sample(s), other._sample(s), rtol=1e-8, atol=1e-12) for s in range(1, spins + 1))

    @property
    def _exchange(self) -> tuple[float, ...]:
        return (self.omega, self.alpha, self.hybrid) if self.omega else (0.0, 0.0, self.hybrid)

    def _sample(self, spins: int) -> Array:
        """Energies per electron and potentials of densities such as molecules have."""
        rho = _densities(self.kind)
        rho = rho if spins == 1 else np.stack([0.6 * rho, 0.4 * rho])
        energy, potential = self.numint.eval_xc_eff(self.xc, rho, deriv=1, xctype=self.kind)[:2]
        return np.concatenate([np.ravel(energy), np.ravel(potential)])


def _evaluated_by(ni: Any, xc: Any, notes: tuple[str, ...] = ()) -> Functional:
    omega, alpha, hybrid = ni.rsh_and_hybrid_coeff(xc)
    if not ni.libxc.is_hybrid_xc(xc):  # then PySCF makes no exchange, whatever `define_xc_` has been told
        omega = alpha = hybrid = 0.0
    return Functional(xc, ni, str(ni._xc_type(xc)), float(omega), float(alpha), float(hybrid), notes)


def _densities(kind: str) -> Array:
    """Densities (g,), their gradients (4, g) and kinetic energy densities (5, g) at points of a small and a large
    reduced gradient, from a molecule's edge to a nucleus.
    """
    density, reduced = (each.ravel() for each in np.meshgrid(np.logspace(-3, 2, 11), [0.1, 0.7, 2.5]))
    if kind == "LDA":
        return density
    gradient = reduced * 2 * (3 * np.pi**2) ** (1 / 3) * density ** (4 / 3)
    rows = [density, *np.multiply.outer(np.array([1.0, 2.0, -2.0]) / 3, gradient)]
    if kind == "MGGA":
        uniform, one_orbital = 0.3 * (3 * np.pi**2) ** (2 / 3) * density ** (5 / 3), gradient**2 / (8 * density)
        rows.append(one_orbital + 0.8 * uniform)
    return np.stack(rows)
