"""Grids of the refinement: `python -m training.bench.refinegrid --data STRUCTURES.npz --labels FILE... [--count N]`.

F_ref and the cheap cycles around an exact build have a thinned grid (`CheapFock.thinned`). Side by side, on that grid
and on level 1, with the exact build made early and late: how many cheap builds after F_ref, how much time, and what is
left, as the gradient norm that PySCF's SCF sees after its first cycle. It ends there below the square root of
its `conv_tol`, 3.2e-5 hartree by default. So many each of: held-out molecules of the label files; closed shells, ions,
open shells and molecules with other elements of the structures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pyscf import lib
from tqdm import tqdm

from pyscf_tracegrad.calculation import Calculation
from pyscf_tracegrad.errors import OutsideDomain
from pyscf_tracegrad.options import GuessOptions
from pyscf_tracegrad.refine import Schedule, refine, schedule_for
from pyscf_tracegrad.starts import choose_start
from training.bench.common import Level
from training.bench.molecules import Molecule, choose, read_labels, read_npz
from training.bench.tables import markdown
from training.command import command, make_parser, positive

# Whether the grid is thinned, and the gradient norm (hartree) at which the exact build is made.
VARIANTS = ((False, 1e-3), (False, 1e-2), (True, 1e-3), (True, 1e-2))

KINDS = ("closed shells", "ions", "open shells", "other elements")
_KRYPTON = 36


@dataclass(frozen=True)
class Row:
    """One refinement. builds: of the cheap operator, F_ref's not counted; seconds: wall time of the cheap cycles.

    gradient: norm after one cycle by the calculation's own operator, hartree.
    """

    molecule: str
    thin: bool
    before_exact: float
    builds: int
    seconds: float
    gradient: float


def measure(molecule: Molecule, xc: str = "b3lyp") -> list[Row]:
    """Rows of one molecule; none, with a word, where no guess applies."""
    mf = Level("", xc).make_mf(molecule)
    calculation = Calculation(mf, mf.mol)
    schedule = schedule_for(calculation, GuessOptions(), allow_exact=True)
    if schedule is None or not schedule.exact:
        raise ValueError("the defaults make an exact build")
    try:
        return [_refine(calculation, molecule.name, replace(schedule, thin=t, before_exact=b)) for t, b in VARIANTS]
    except OutsideDomain as error:
        tqdm.write(f"{molecule.name}: {error}")
        return []


def _refine(calculation: Calculation, name: str, schedule: Schedule) -> Row:
    start = choose_start(calculation, GuessOptions(), None, schedule.thinned)
    if start.cheap is None:
        raise ValueError(f"{name}: start {start.route!r} has no cheap operator")
    before = start.cheap.builds
    refined = refine(calculation, start.cheap, start.state, start.pairs, schedule)
    after = calculation.state(calculation.effective(refined.state.dm, calculation.exact_fock(refined.state.dm)))
    gradient = calculation.gradient(after, calculation.exact_fock(after.dm))
    builds, seconds = start.cheap.builds - before, refined.seconds["cheap cycles"]
    return Row(name, schedule.thin, schedule.before_exact, builds, seconds, gradient)


def table(rows: Sequence[Row], conv_tol: float = 1e-9) -> str:
    """One line per variant, as markdown; times are over those of the first variant, mean over the molecules."""
    first = {r.molecule: r.seconds for r in rows if (r.thin, r.before_exact) == VARIANTS[0]}
    lines = []
    for thin, before in VARIANTS:
        found = [r for r in rows if (r.thin, r.before_exact) == (thin, before)]
        gradients = np.array([r.gradient for r in found])
        lines.append(
            [
                "thinned" if thin else "level 1",
                f"{before:.0e}",
                str(len(found)),
                f"{np.mean([r.builds for r in found]):.2f}",
                f"{np.mean([r.seconds / first[r.molecule] for r in found]):.2f}",
                f"{np.median(gradients):.1e}",
                f"{gradients.max():.1e}",
                str(int((gradients > np.sqrt(conv_tol)).sum())),
            ]
        )
    header = ["grid", "exact build at", "n", "cheap builds", "their time", "gradient, median", "worst", "not converged"]
    return markdown(header, lines)


def _kind(molecule: Molecule) -> str:
    """One of `KINDS`; empty for elements that need a core potential."""
    if not molecule.covered:
        return KINDS[3] if max(molecule.numbers) <= _KRYPTON else ""
    return KINDS[2] if molecule.spin else KINDS[1] if molecule.charge else KINDS[0]


def select(data: Sequence[Molecule], labels: Sequence[Molecule], count: int, max_atoms: int) -> list[Molecule]:
    """So many molecules of each kind, in an order that a seed decides."""
    chosen = choose(labels, count, lambda m: m.n_atoms <= max_atoms)
    for kind in KINDS:
        candidates = [m for m in data if 4 <= m.n_atoms <= max_atoms and _kind(m) == kind]
        chosen += choose(candidates, count, lambda _: True)
    return chosen


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.bench.refinegrid", __doc__)
    parser.add_argument("--data", nargs="*", default=[], help="structures (ragged npz)")
    parser.add_argument("--labels", nargs="*", default=[], help="label files (HDF5)")
    parser.add_argument("--count", type=positive, default=5, help="molecules of each kind")
    parser.add_argument("--max-atoms", type=int, default=12, help="of the molecules")
    parser.add_argument("--xc", default="b3lyp", help="functional")
    parser.add_argument("--threads", type=positive, default=1, help="of PySCF")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    data = [m for path in a.data for m in read_npz(path)]
    molecules = select(data, read_labels(a.labels), a.count, a.max_atoms)
    if not molecules:
        raise ValueError("no molecule of the right kind in these files")
    rows: list[Row] = []
    with lib.with_omp_threads(a.threads):
        for molecule in tqdm(molecules, unit="mol"):
            rows += measure(molecule, a.xc)
    print(table(rows))


if __name__ == "__main__":
    sys.exit(main())
