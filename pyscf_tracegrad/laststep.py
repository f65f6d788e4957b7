"""The last step of a guess that is not refined: one cheap build at its density, mixed and damped where that counts.

    F <- F_mix + G_mix - 0.65 (P S)^T G_mix (1 - P S) - its transpose,      G = F[D(F)] - F

with F_mix, G_mix by Anderson's method from F_ref's steps and this one, and P the projector on the occupied orbitals
of F, for each spin: between occupied and empty orbitals the step is damped by 0.35, among occupied ones and among
empty ones it is whole.

What follows are PySCF's first cycles, and these are without DIIS: each multiplies the error by the response of the
density, e -> M e. Stiff parts of the error, |M| < 1, they remove by themselves; soft ones, M near -2, where charge
flows back and forth in the whole molecule, they double. A local network does not see those well, and its own error in
them decides the number of cycles more than the error in all. A step damped by a takes (1 - a (1 - M)) of each, which is
nothing where M = 1 - 1/a, -1.9 here. All this is of the parts that make a density. The others, of which a network has
the larger errors (empty orbitals above all), change no density in first order and have nothing to swing with.

Held-out molecules: ov of the matrix handed over, its mean absolute error in microhartree, and its ov after two cycles
without DIIS. Network without this step 8.5e-5, 74, 3.1e-5; with it 5.6e-5, 24, 4.3e-6; damped everywhere 5.5e-5, 51,
4.3e-6; whole everywhere 1.8e-5, 11, 4.5e-5. `python -m training.bench.laststep` measures them.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyscf_tracegrad.anderson import mix
from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.reference import Pair
from pyscf_tracegrad.starts import Start

Array = NDArray[np.float64]

DAMPING = 0.35


def last_step(calculation: Calculation, start: Start) -> Start:
    """The start with its Fock matrix, orbitals and density after the step.

    As it is where no Fock matrix, no cheap operator or no step of F_ref is known: minao, projected orbitals, a model
    without Fock builds.
    """
    reference, cheap = start.reference, start.cheap
    if start.fock is None or cheap is None or reference is None or not reference.inputs:
        return start
    begin = time.perf_counter()
    with one_blas_thread():
        pair = Pair(start.state.dm, cheap(start.state.dm))
        focks = [*map(calculation.spread, reference.inputs), start.fock]
        responses = [*map(calculation.spread, reference.responses), pair.fock - start.fock]
        mixed, response = mix(focks, responses, calculation.overlap, calculation.nelec)
        fock = mixed + response - (1 - DAMPING) * turning_part(response, start.state.dm, calculation.overlap)
        state = calculation.first_state(fock)
    seconds = start.seconds | {"last step": time.perf_counter() - begin}
    return dataclasses.replace(start, state=state, fock=fock, pairs=(*start.pairs, pair), seconds=seconds)


def turning_part(fock: Array, dm: Any, overlap: Array) -> Array:
    """The part of a Fock matrix, or of a change of one, between occupied and empty orbitals: what turns the density.

    fock: (nao, nao), or (2, nao, nao) for two spins, hartree; dm: density of the orbitals, same shape, of whole
    occupations; overlap: (nao, nao).
    """
    projector = np.asarray(dm) * (0.5 if fock.ndim == 2 else 1.0) @ overlap  # P S
    inward = projector.swapaxes(-1, -2) @ fock
    inward = inward - inward @ projector
    turning: Array = inward + inward.swapaxes(-1, -2)
    return turning
