"""The last step of a guess that is not refined: one cheap build at its density, mixed and damped.

    F <- F_mix + 0.35 G_mix,    G = F[D(F)] - F,    F_mix, G_mix by Anderson's method from F_ref's steps and this one

What follows are PySCF's first cycles, and these are without DIIS: each multiplies the error by the response of the
density, e -> M e. Stiff parts of the error, |M| < 1, they remove by themselves; soft ones, M near -2, where charge
flows back and forth in the whole molecule, they double. A local network does not see those well, and its own error in
them decides the number of cycles more than the error in all. A step damped by a takes (1 - a (1 - M)) of each, which is
nothing where M = 1 - 1/a, -1.9 here.

Held-out molecules, ov of the matrix handed over, and after two cycles without DIIS: network without this step 9.7e-5
and 5.8e-5, with it (damped by 0.33) 6.5e-5 and 7e-6; F_ref 4.5e-4 and 1.9e-4, with it 2.3e-4 and 3.3e-5.
"""

from __future__ import annotations

import dataclasses
import time

from pyscf_tracegrad.anderson import mix
from pyscf_tracegrad.blas import one_blas_thread
from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.reference import Pair
from pyscf_tracegrad.starts import Start

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
        fock = mixed + DAMPING * response
        state = calculation.first_state(fock)
    seconds = start.seconds | {"last step": time.perf_counter() - begin}
    return dataclasses.replace(start, state=state, fock=fock, pairs=(*start.pairs, pair), seconds=seconds)
