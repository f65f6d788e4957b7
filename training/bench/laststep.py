"""What the last step of a guess does to its error: `python -m training.bench.laststep --labels FILE... [--every K]`.

For held-out neutral molecules of a label file, F_ref and the network's matrix: as they are, after the last step, after
one that is damped everywhere, and after one that is damped nowhere. Given are the errors of each matrix against the
label, and the ov error after one and two cycles without DIIS, which is what PySCF's SCF begins with. Those cycles are
by the cheap operator, and their error is measured against that operator's own fixed point, so that its small
difference from the exact one does not hide what they do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pyscf_tracegrad.anderson import mix
from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.laststep import DAMPING, last_step
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.starts import GRID_LEVEL, Start, choose_start
from training.bench.tables import markdown
from training.command import command, make_parser, positive
from training.labels import Label, LabelFile, Theory
from training.metrics import occupied_virtual_error

if TYPE_CHECKING:  # torch is loaded by the work, not by the command's help
    from pyscf_tracegrad.pretrained import PretrainedModel

Array = NDArray[np.float64]

_CYCLES = 2
_STEPS_TO_FIXED_POINT = 4
STARTS: tuple[Literal["reference", "network"], ...] = ("reference", "network")


@dataclass(frozen=True)
class Row:
    """Errors of one matrix of one molecule.

    mae: mean |F - F_label|, hartree. ov: its ov error, dimensionless. later: ov errors after one and two cycles.
    """

    molecule: str
    matrix: str
    cheap_builds: int
    mae: float
    ov: float
    later: tuple[float, ...]


def candidates(calculation: Calculation, before: Start) -> dict[str, tuple[int, Array]]:
    """The matrix of a start and what the last step and its alternatives make of it, each with its cheap builds."""
    after = last_step(calculation, before)
    reference, fock = before.reference, before.fock
    if after.fock is None or after is before or reference is None or fock is None:
        raise ValueError(f"start {before.route!r} has no Fock matrix that a last step could go on from")
    response = after.pairs[-1].fock - fock
    focks, responses = [*reference.inputs, fock], [*reference.responses, response]
    mixed, left = mix(focks, responses, calculation.overlap, calculation.nelec)
    builds = len(focks)
    return {
        "as it is": (builds, fock),
        "last step": (builds + 1, after.fock),
        f"damped by {DAMPING} everywhere": (builds + 1, mixed + DAMPING * left),
        "damped nowhere": (builds + 1, mixed + left),
    }


def fixed_point(calculation: Calculation, cheap: CheapFock, label: Array) -> Array:
    """Converged Fock matrix (nao, nao) of a cheap operator, from that of the exact one, which is near."""
    fock = label
    for _ in range(_STEPS_TO_FIXED_POINT):
        fock = fock + DAMPING * (cheap(calculation.first_state(fock).dm) - fock)
    return fock


def measure(label: Label, theory: Theory, model: PretrainedModel) -> list[Row]:
    """Rows of one molecule."""
    mol = label.molecule(theory.basis)
    calculation = Calculation(mol.RKS(xc=theory.xc), mol)
    exact, n_occupied, overlap = label.full_fock(), mol.nelectron // 2, calculation.overlap
    cheap = calculation.cheap(GRID_LEVEL)
    goal = fixed_point(calculation, cheap, exact)
    rows = []
    for start in STARTS:
        before = choose_start(calculation, GuessOptions(refine=False, start=start), model)
        for name, (builds, fock) in candidates(calculation, before).items():
            later, current = [], fock
            for _ in range(_CYCLES):
                current = cheap(calculation.first_state(current).dm)
                later.append(occupied_virtual_error(current, goal, overlap, n_occupied))
            mae, ov = np.abs(fock - exact).mean(), occupied_virtual_error(fock, exact, overlap, n_occupied)
            rows.append(Row(label.name, f"{start}, {name}", builds, float(mae), ov, tuple(later)))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Geometric means over the molecules, as markdown."""
    lines = []
    for matrix in dict.fromkeys(r.matrix for r in rows):
        found = [r for r in rows if r.matrix == matrix]
        means = np.exp(np.mean(np.log([[r.mae, r.ov, *r.later] for r in found]), axis=0))
        cells = [f"{1e6 * means[0]:.0f}", *(f"{value:.1e}" for value in means[1:])]
        lines.append([matrix, str(found[0].cheap_builds), *cells])
    header = ["matrix", "cheap builds", "H MAE (uEh)", "ov", "after one cycle", "after two"]
    return markdown(header, lines)


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.laststep", __doc__)
    parser.add_argument("--labels", nargs="+", required=True, help="label files (HDF5)")
    parser.add_argument("--model", help="model file; default: the shipped one")
    parser.add_argument("--every", type=positive, default=5, help="every K-th held-out neutral molecule")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    from pyscf_tracegrad.pretrained import load_model

    model, rows = load_model(a.model), []
    for path in a.labels:
        labels = LabelFile(path)
        held_out = [k for k in range(len(labels)) if labels.splits[k] == "val"]
        neutral = [label for label in (labels[k] for k in held_out) if label.charge == 0]
        for label in tqdm(neutral[:: a.every], desc=str(path), unit="mol"):
            rows += measure(label, labels.theory, model)
    if not rows:
        raise ValueError("no held-out neutral molecule in these label files")
    print(table(rows))


if __name__ == "__main__":
    sys.exit(main())
