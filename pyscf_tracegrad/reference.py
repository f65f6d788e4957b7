"""Reference Fock matrices: what is known of the answer before the network is asked.

`minao` (the default): F0 = F[D_minao] by the cheap operator, then damped steps on it,

    F_k+1 = F_k + a_k G_k,    G_k = F[D(F_k)] - F_k

The responses G_k tell a local network how the whole molecule answers. The last step may go on from the combination of
all F_k that Anderson's method finds (`anderson.py`) instead of from the last of them. Without any network the
occupied-virtual error is 3.7e-3 for F0, 9.5e-4 after one step, 4.9e-4 after two; three steps, the last by Anderson,
leave 1.2e-4, and damped ones 1.8e-4 at best.

Damping keeps densities from overshooting; a constant potential, dF = c S, moves no density and needs none. So the
S-component of the last response is taken in full (`gauge`). This leaves the guess as it is and takes the mean error of
the matrix after two damped steps from 1.33 to 1.00 mEh on neutral molecules and from 3.5 to 1.2 mEh on ions, whose F0
is that of the neutral density.

`sap`: hcore + superposition of atomic potentials (Lehtola, doi:10.1021/acs.jctc.8b01089; the Gaussian fit of
doi:10.1063/5.0004046), analytic, without any Fock build.

The functional is that of the model's labels, whatever functional the user's own calculation has.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.gto.basis import load as load_basis
from pyscf.scf import hf

from pyscf_tracegrad.anderson import mix
from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.config import ReferenceSettings
from pyscf_tracegrad.density import canonical_orthogonalisation, fermi_density

Array = NDArray[np.float64]


class Pair(NamedTuple):
    """A density and the Fock matrix that the cheap operator made of it; both (nao, nao) or both (2, nao, nao)."""

    dm: Any
    fock: Array


def diis_errors(pairs: Sequence[Pair], overlap: Array) -> list[float]:
    """Norm of FDS - SDF of each pair in the orthonormal basis, hartree: distance from self-consistency."""
    x = canonical_orthogonalisation(overlap)
    products = (x.T @ pair.fock @ np.asarray(pair.dm) @ overlap @ x for pair in pairs)
    return [float(np.linalg.norm(product - product.swapaxes(-1, -2))) for product in products]


@dataclass(frozen=True)
class Reference:
    """F_ref of one molecule.

    fock (nao, nao), responses (steps, nao, nao): hartree; overlap (nao, nao); all in PySCF's AO order. Of an
    unrestricted calculation fock (2, nao, nao) and responses (steps, 2, nao, nao). For those who go on from here:
    `cheap` is the operator that made it, `pairs` what it was applied to, `inputs` the matrices F_k that the responses
    are of; `seconds` the wall time of set-up, F0 and steps.
    """

    fock: Array
    responses: Array
    overlap: Array
    cheap: CheapFock | None = field(default=None, compare=False)
    pairs: tuple[Pair, ...] = field(default=(), compare=False)
    inputs: tuple[Array, ...] = field(default=(), compare=False)
    seconds: dict[str, float] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        nao = len(self.overlap)
        shape = self.fock.shape
        if shape[-2:] != (nao, nao) or self.responses.shape[1:] != shape or shape[:-2] not in ((), (2,)):
            raise ValueError(f"F_ref {shape}, G {self.responses.shape} and S ({nao}, {nao}) do not match")


def combine(
    initial: Array, responses: Array, overlap: Array, settings: ReferenceSettings, nelec: tuple[int, int]
) -> Array:
    """F_ref from F0 and the responses G (>= steps, nao, nao) of as many steps as `settings` has, gauge step included.

    nelec: electrons of each spin. F0 and the responses may be those of two spins, (2, nao, nao) and (>= steps, 2, nao,
    nao).
    """
    if not settings.steps:
        return initial.copy()
    last = settings.steps - 1
    focks = [initial]
    for k in range(last):
        focks.append(focks[-1] + settings.damping[k] * responses[k])
    fock, response = focks[-1], responses[last]
    if settings.mixing == "anderson":
        fock, response = mix(focks, responses[: settings.steps], overlap, nelec)
    stepped: Array = fock + settings.damping[last] * response
    return stepped + gauge_step(response, overlap, settings) if settings.gauge else stepped


def gauge_step(response: Array, overlap: Array, settings: ReferenceSettings) -> Array:
    """What damping leaves of the S-component of the last response, (1 - a) <G, S> / <S, S> S."""
    component = np.tensordot(response, overlap, 2) / np.vdot(overlap, overlap)  # (), or (2,) for two spins
    step: Array = (1.0 - settings.damping[settings.steps - 1]) * np.multiply.outer(component, overlap)
    return step


def build_reference(mol: gto.Mole, settings: ReferenceSettings, cheap: CheapFock | None = None) -> Reference:
    """F_ref, the responses and the overlap of a closed-shell molecule by the strategy that `settings` names.

    cheap: operator with the functional of the settings, for those who have one; a new one if not given.
    """
    with one_blas_thread():  # for the diagonalisations too
        if settings.strategy == "sap":
            return _sap_reference(mol)
        seconds = {}
        if cheap is None:
            cheap = CheapFock(mol, settings.xc, settings.grid_level)
            seconds["set-up"] = cheap.setup_seconds
        return damped_steps(cheap, hf.init_guess_by_minao(mol), mol.nelec, settings, seconds)


def damped_steps(
    cheap: CheapFock, dm: Any, nelec: tuple[int, int], settings: ReferenceSettings, seconds: dict[str, float]
) -> Reference:
    """F_ref from a first density (nao, nao), or (2, nao, nao) and then with a response of each spin.

    nelec: electrons of each spin. seconds: times so far, to which these are added.
    """
    start = time.perf_counter()
    fock = cheap(dm)
    pairs, inputs = [Pair(dm, fock)], [fock]
    responses = np.zeros((settings.steps, *fock.shape))
    seconds = seconds | {"F0": time.perf_counter() - start}
    start = time.perf_counter()
    for k in range(settings.steps):
        dm = fermi_density(inputs[k], cheap.overlap, nelec, settings.smearing)
        pairs.append(Pair(dm, cheap(dm)))
        responses[k] = pairs[-1].fock - inputs[k]
        inputs.append(inputs[k] + settings.damping[k] * responses[k])
    fock = combine(inputs[0], responses, cheap.overlap, settings, nelec)
    seconds["G"] = time.perf_counter() - start
    return Reference(fock, responses, cheap.overlap, cheap, tuple(pairs), tuple(inputs[: settings.steps]), seconds)


def _sap_reference(mol: gto.Mole) -> Reference:
    start = time.perf_counter()
    symbols = {mol.atom_symbol(a) for a in range(mol.natm)}
    fits = {s: np.asarray(load_basis("sapgrasplarge", gto.mole._std_symbol(s))[0][1:], dtype=float) for s in symbols}
    fock = hf.get_hcore(mol) + hf.make_sap(mol, fits)
    overlap = mol.intor_symmetric("int1e_ovlp")
    seconds = {"F0": time.perf_counter() - start}
    return Reference(fock, np.zeros((0, *fock.shape)), overlap, seconds=seconds)
