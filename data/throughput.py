"""Labels per hour: the fast recipe against plain PySCF runs, the same molecules side by side in one process.

`python -m data.throughput SET.toml -o DIR`, or instead of the set file `--labels FILE.h5` for the structures of a label
file, or `--qm9 1 7 17`. Writes DIR/throughput.csv, which an interrupted run goes on with, DIR/throughput.md and
DIR/throughput.png. One thread; both recipes take turns to be first. One folder is for one level of theory. The table
is of processor time, which is the wall time of a quiet machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyscf import lib

from data.checks import check_theory
from data.errors import MoleculeError
from data.label import Converged, converge
from data.settings import LabelSettings, SetFile, Source, TheoryLevel, read_set
from data.structure import Seed, Structure
from pyscf_tracegrad.blas import one_blas_thread
from training.command import command, make_parser
from training.labels import LabelFile
from training.rows import append_rows, read_rows

RECIPES = ("fast", "exact")
_COLOURS = ("#4477aa", "#ee6677")  # Paul Tol's bright scheme: apart for the colour-blind too


@dataclass(frozen=True)
class Row:
    """One label by one recipe.

    seconds, cpu_seconds: wall and processor time. builds: exact Fock builds. gradient_norm: hartree.
    fock_difference: largest difference between both recipes' Fock matrices, hartree; energy_difference: that of the
    energies, fast minus exact.
    """

    name: str
    n_atoms: int
    nao: int
    recipe: str
    seconds: float
    cpu_seconds: float
    builds: int
    cheap_builds: int
    gradient_norm: float
    fock_difference: float
    energy_difference: float


def spread(structures: Sequence[Structure], count: int) -> list[Structure]:
    """So many structures, as evenly over the sizes as there are any; 0: all. By size."""
    left = sorted(structures, key=lambda s: (s.n_atoms, s.n_electrons, s.name))
    if not 0 < count < len(left):
        return left
    sizes = np.linspace(left[0].n_atoms, left[-1].n_atoms, count)
    picked = [left.pop(int(np.argmin([abs(s.n_atoms - size) for s in left]))) for size in sizes]
    return sorted(picked, key=lambda s: s.n_atoms)


def measure(
    structure: Structure, theory: TheoryLevel, settings: LabelSettings, recipes: Sequence[str] = RECIPES
) -> list[Row]:
    """Label a structure by both recipes, in the order given. Raises MoleculeError as `label` does."""
    results: dict[str, tuple[Converged, float, float]] = {}
    with lib.with_omp_threads(1), one_blas_thread():
        for recipe in recipes:
            wall, cpu = time.perf_counter(), time.process_time()
            result = converge(structure, theory, dataclasses.replace(settings, exact=recipe == "exact"))
            results[recipe] = (result, time.perf_counter() - wall, time.process_time() - cpu)
    fast, exact = (results[recipe][0] for recipe in RECIPES)
    return [
        Row(
            name=structure.name,
            n_atoms=structure.n_atoms,
            nao=len(result.fock),
            recipe=recipe,
            seconds=wall,
            cpu_seconds=cpu,
            builds=result.exact_builds,
            cheap_builds=result.cheap_builds,
            gradient_norm=result.gradient_norm,
            fock_difference=float(np.abs(fast.fock - exact.fock).max()),
            energy_difference=fast.energy - exact.energy,
        )
        for recipe, (result, wall, cpu) in results.items()
    ]


def run(structures: Sequence[Structure], theory: TheoryLevel, settings: LabelSettings, path: Path) -> list[Row]:
    """Measure what the CSV at `path` does not have yet; returns its rows. Molecules that fail are printed."""
    done = {row.name for row in read_rows(path, Row)}
    orders = itertools.cycle([RECIPES, RECIPES[::-1]])
    for structure in structures:
        order = next(orders)
        if structure.name in done:
            continue
        try:
            rows = measure(structure, theory, settings, order)
        except MoleculeError as error:
            print(error, file=sys.stderr)
            continue
        append_rows(path, rows)
        times = ", ".join(f"{row.recipe} {row.seconds:.1f} s" for row in rows)
        print(f"{structure.name}: {rows[0].n_atoms} atoms, {rows[0].nao} AOs, {times}", flush=True)
    return read_rows(path, Row)


def _pairs(rows: Sequence[Row]) -> Iterator[tuple[Row, Row]]:
    """Fast and exact row of each molecule, by size."""
    by_recipe = {recipe: {row.name: row for row in rows if row.recipe == recipe} for recipe in RECIPES}
    for name, fast in sorted(by_recipe["fast"].items(), key=lambda item: item[1].nao):
        if name in by_recipe["exact"]:
            yield fast, by_recipe["exact"][name]


def exponent(nao: NDArray[np.int64], seconds: NDArray[np.float64]) -> tuple[float, float]:
    """Slope and intercept of log(seconds) against log(nao), by least squares; nan for fewer than two sizes."""
    if len(np.unique(nao)) < 2:
        return float("nan"), float("nan")
    slope, intercept = np.polyfit(np.log(nao), np.log(seconds), 1)
    return float(slope), float(intercept)


def table(rows: Sequence[Row], theory: TheoryLevel, settings: LabelSettings) -> str:
    """Markdown: a line for each molecule, and the sums."""
    pairs = list(_pairs(rows))
    level = f"{theory.xc}/{theory.basis}, grid level {theory.grid_level}, orbital gradient below {settings.gradient:g}"
    lines = [
        f"Labels at {level} hartree, one thread. Times are processor seconds, differences in hartree.",
        "",
        "| molecule | atoms | AOs | fast | exact | ratio | builds fast (cheap) | builds exact | largest dF | dE |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for f, e in pairs:
        lines.append(
            f"| {f.name} | {f.n_atoms} | {f.nao} | {f.cpu_seconds:.1f} | {e.cpu_seconds:.1f} "
            f"| {e.cpu_seconds / f.cpu_seconds:.2f} | {f.builds} ({f.cheap_builds}) | {e.builds} "
            f"| {f.fock_difference:.1e} | {f.energy_difference:.0e} |"
        )
    return "\n".join([*lines, "", _sums(pairs), ""])


def _sums(pairs: Sequence[tuple[Row, Row]]) -> str:
    if not pairs:
        return "No molecule was measured."
    n = len(pairs)
    wall_fast, wall_exact = (sum(pair[k].seconds for pair in pairs) for k in (0, 1))
    cpu_fast, cpu_exact = (sum(pair[k].cpu_seconds for pair in pairs) for k in (0, 1))
    fock = max(f.fock_difference for f, _ in pairs)
    energy = max(abs(f.energy_difference) for f, _ in pairs)
    return (
        f"Labels per hour over {n} molecules: fast {3600 * n / wall_fast:.0f}, exact {3600 * n / wall_exact:.0f}, "
        f"ratio {wall_exact / wall_fast:.2f}; by processor time {3600 * n / cpu_fast:.0f}, {3600 * n / cpu_exact:.0f}, "
        f"ratio {cpu_exact / cpu_fast:.2f}. Largest difference of the Fock matrices {fock:.1e}, of the energies "
        f"{energy:.0e}."
    )


def draw(rows: Sequence[Row], theory: TheoryLevel, path: Path) -> None:
    """Write a PNG: processor seconds against AOs, both logarithmic, with the fitted power of each recipe."""
    from matplotlib.figure import Figure  # Figure by itself draws by Agg, without a display
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(6, 4.2), layout="constrained")
    ax = figure.subplots()
    for recipe, colour, marker in zip(RECIPES, _COLOURS, "os", strict=True):
        mine = [row for row in rows if row.recipe == recipe]
        nao, seconds = np.array([row.nao for row in mine]), np.array([row.cpu_seconds for row in mine])
        slope, intercept = exponent(nao, seconds)
        name = recipe if np.isnan(slope) else f"{recipe}: AOs$^{{{slope:.1f}}}$"
        ax.scatter(nao, seconds, color=colour, marker=marker, s=28, label=name)
        if not np.isnan(slope):
            ends = np.array([nao.min(), nao.max()])
            ax.plot(ends, np.exp(intercept) * ends**slope, color=colour, linewidth=1)
    ax.set(xscale="log", yscale="log", xlabel="atomic orbitals", ylabel="processor seconds of a label")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    ax.set_title(f"{theory.xc}/{theory.basis}", fontsize=10)
    ax.grid(alpha=0.3)
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)


def structures_of(a: argparse.Namespace) -> tuple[list[Structure], TheoryLevel, LabelSettings]:
    """Structures, level of theory and settings that the command line names.

    Raises SetFileError or LabelError for what cannot be read, and for a level of theory that PySCF does not have.
    """
    if a.labels is not None:
        file = LabelFile(a.labels)
        theory = TheoryLevel(file.theory.xc, file.theory.basis)
        structures = [Structure(r.name, r.atomic_numbers, r.positions, r.charge) for r in file]
        check_theory(theory, [Seed(s.name, structure=s) for s in structures])
        return structures, theory, LabelSettings()
    from data.prepare import prepare
    from data.sources import read_sources

    set_file = SetFile("qm9", (Source(kind="qm9", indices=tuple(a.qm9)),)) if a.qm9 else read_set(a.set)
    recipes = read_sources(set_file)
    check_theory(set_file.theory, [seed for _, seed in recipes])
    structures = [s for source, seed in recipes for s in prepare(seed, source)]
    return structures, set_file.theory, set_file.labels


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("data.throughput", __doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("set", type=Path, nargs="?", help="set file (TOML)")
    what.add_argument("--labels", type=Path, metavar="FILE", help="label file (HDF5) whose structures to label again")
    what.add_argument("--qm9", type=int, nargs="+", metavar="INDEX", help="QM9 indices")
    parser.add_argument("-o", "--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--count", type=int, default=0, help="so many structures, evenly over the sizes; 0: all")
    parser.add_argument("--max-atoms", type=int, default=0, help="only structures of at most so many atoms; 0: any")
    return parser


@command("molecules that are done are kept; run the same command again, it goes on where it stopped")
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns its exit status."""
    a = options().parse_args(arguments)
    a.out.mkdir(parents=True, exist_ok=True)
    structures, theory, settings = structures_of(a)
    if a.max_atoms:
        structures = [s for s in structures if s.n_atoms <= a.max_atoms]
    rows = run(spread(structures, a.count), theory, settings, a.out / "throughput.csv")
    if not rows:
        print("error: no molecule could be measured; see the reasons above", file=sys.stderr)
        return 1
    text = table(rows, theory, settings)
    (a.out / "throughput.md").write_text(text)
    draw(rows, theory, a.out / "throughput.png")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
