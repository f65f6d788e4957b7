"""Whether to trust the network's answer, decided without a Fock build.

Signals of a predicted Fock matrix and its density; a rejected prediction is replaced by F_ref. The thresholds are those
of the shipped model: `python -m training.bench.gate` measures them on held-out molecules and on bad ones (stretched
bonds, clashing atoms, odd valences, long chains, noise on the weights); docs/serving.md has the ROC curves.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.scf import hf

from pyscf_tracegrad.density import diagonalise
from pyscf_tracegrad.reference import Reference, diis_errors

if TYPE_CHECKING:
    from pyscf_tracegrad.pretrained import Prediction

Array = NDArray[np.float64]


# A DIIS error (hartree) below this is no step at all, as in a basis without virtual orbitals.
_SELF_CONSISTENT = 1e-6


@dataclass(frozen=True)
class Signals:
    """What the gate looks at.

    gap: predicted HOMO-LUMO gap of a closed shell, hartree; infinite for open shells, whose frontier orbitals may be
    degenerate without harm, and where there are no virtual orbitals. charge: largest Mulliken charge. distance: |D -
    D_minao| in the orthonormal basis, per root of the number of electrons. step: rms of the first-order density change
    that the correction dF makes to F_ref, (C_occ^T dF C_vir)_ia / (e_a - e_i); the quantity whose error counts (`ov`).
    traces: mean difference between the predicted traces of the shell-pair blocks and the traces of the predicted
    blocks, over their mean; 0 for a model without TraceGrad. overshoot: DIIS error of the last damped step of F_ref
    over that of the one before; the steps converge where it is well below 1; 0 without two steps.
    """

    gap: float
    charge: float
    distance: float
    step: float
    traces: float
    overshoot: float

    def values(self) -> dict[str, float]:
        """The signals by name."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Gate:
    """Limits of the signals within which a prediction is trusted.

    `gap` and `overshoot` find hard molecules, on which F_ref fails as well; `step` and `distance` find bad weights. The
    trace mismatch is no use: pure noise for weights saturates it at a value that ordinary F2 reaches, so it has no
    limit.
    """

    gap: float = 0.07
    charge: float = 2.5
    distance: float = 1.1
    step: float = 6e-3
    traces: float = float("inf")
    overshoot: float = 0.8

    def objection(self, signals: Signals) -> str:
        """Which signal speaks against the prediction, with its value and limit; empty where none does."""
        if np.isnan(list(signals.values().values())).any():
            return "the prediction is not finite"
        if signals.gap < self.gap:
            return f"predicted gap {signals.gap:.3f} < {self.gap:g} hartree"
        for name, what in (
            ("charge", "largest Mulliken charge"),
            ("distance", "distance to minao's density"),
            ("step", "density change by the network"),
            ("traces", "trace mismatch"),
            ("overshoot", "overshoot of the damped steps"),
        ):
            value, limit = getattr(signals, name), getattr(self, name)
            if value > limit:
                return f"{what} {value:.2g} > {limit:g}"
        return ""


def measure(mol: gto.Mole, fock: Array, reference: Reference, nelec: tuple[int, int] | None = None) -> Signals:
    """Signals of a Fock matrix (nao, nao), or (2, nao, nao) with `nelec` electrons of each spin; no network signals.

    reference: what the matrix started from, with the pairs that it was made of.
    """
    nelec = mol.nelec if nelec is None else nelec
    ovlp = reference.overlap
    minao = np.asarray(reference.pairs[0].dm if reference.pairs else hf.init_guess_by_minao(mol))
    errors = diis_errors(reference.pairs, ovlp)
    spins = [(fock, nelec[0], 2.0)] if fock.ndim == 2 else [(fock[0], nelec[0], 1.0), (fock[1], nelec[1], 1.0)]
    dm, gaps = np.zeros_like(ovlp), [np.inf]
    for matrix, occupied, weight in spins:
        energies, c = diagonalise(matrix, ovlp)
        dm += weight * c[:, :occupied] @ c[:, :occupied].T
        if fock.ndim == 2 and occupied < len(energies):
            gaps.append(float(energies[occupied] - energies[occupied - 1]))
    populations = np.einsum("pq,qp->p", dm, ovlp)
    slices = mol.aoslice_by_atom()[:, 2:]
    charges = mol.atom_charges() - np.array([populations[a:b].sum() for a, b in slices])
    change = (dm - (minao if minao.ndim == 2 else minao[0] + minao[1])) @ ovlp
    distance = float(np.sqrt(max(np.einsum("pq,qp->", change, change), 0.0) / mol.nelectron))
    overshoot = errors[-1] / errors[-2] if len(errors) > 2 and errors[-2] > _SELF_CONSISTENT else 0.0
    return Signals(min(gaps), float(np.abs(charges).max()), distance, 0.0, 0.0, overshoot)


def measure_network(prediction: Prediction) -> Signals:
    """Signals of a prediction."""
    mol, reference = prediction.mol, prediction.reference
    if not np.isfinite(prediction.correction).all():
        return Signals(*[float("nan")] * len(dataclasses.fields(Signals)))
    signals = measure(mol, prediction.fock, reference)
    step = _density_step(reference.fock, prediction.correction, reference.overlap, mol.nelectron // 2)
    return dataclasses.replace(signals, step=step, traces=prediction.traces)


def _density_step(reference: Array, correction: Array, ovlp: Array, occupied: int) -> float:
    energies, c = diagonalise(reference, ovlp)
    if occupied == len(energies):
        return 0.0
    in_orbitals = c[:, occupied:].T @ correction @ c[:, :occupied]
    gaps = energies[occupied:, None] - energies[None, :occupied]
    return float(np.sqrt(np.mean((in_orbitals / np.maximum(gaps, 1e-3)) ** 2)))
