"""Pictures of a study: error against cycle, ratios, ratios and wall time against size.

`colours`: of the guesses that a picture shows, in their order; the same in all pictures.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.acceleration.ratios import Pair, pairs
from training.acceleration.runs import Row
from training.curves import logarithmic

Array = NDArray[np.float64]

_FLOOR = 1e-10  # hartree; the last matrix is the target itself


def _axes(figure: Figure, xlabel: str, ylabel: str) -> Axes:
    ax: Axes = figure.subplots()
    _dress(ax, xlabel, ylabel)
    return ax


def _dress(ax: Axes, xlabel: str, ylabel: str) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.set_xlabel(xlabel, fontsize=8)
    ax.set_ylabel(ylabel, fontsize=8)


def _legend(figure: Figure) -> None:
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=3, columnspacing=1.0, handletextpad=0.4)


def median_path(rows: Sequence[Row]) -> Array:
    """Median over molecules of the error after each number of cycles, hartree: after 0 that of the starting density.

    An SCF that has ended keeps its last error; what is 0 by definition counts as 1e-10. As long as half of them run.
    """
    paths = [row.path[: 1 + row.cycles] for row in rows if row.converged and row.path]
    if not paths:
        return np.array([])
    lengths = sorted((len(path) for path in paths), reverse=True)
    columns = list(zip_longest(*paths, fillvalue=np.nan))[: lengths[(len(lengths) - 1) // 2]]
    table = np.array(columns, dtype=float)
    for k in range(1, len(table)):
        table[k] = np.where(np.isnan(table[k]), table[k - 1], table[k])
    return np.asarray(np.maximum(np.median(table, axis=1), _FLOOR))


def convergence(rows: Sequence[Row], colours: Mapping[str, str]) -> Figure:
    """Error of the Fock matrix against the number of cycles, median over molecules."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    ax = _axes(figure, "cycles", "mean |F - F converged| / hartree")
    for guess, colour in colours.items():
        path = median_path([r for r in rows if r.guess == guess])
        ax.plot(range(len(path)), path, "o-", ms=3, lw=1.2, color=colour, label=guess)
    ax.set_yscale("log")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(figure)
    return figure


def ratio_histograms(rows: Sequence[Row], colours: Mapping[str, str], reference: str) -> Figure:
    """How often each ratio of cycles occurs, one row per guess; a line at 1 and at the mean."""
    figure = Figure(figsize=(4.6, 0.7 + 0.65 * len(colours)), layout="constrained")
    all_axes = figure.subplots(len(colours), 1, sharex=True, squeeze=False)[:, 0]
    ratios = {g: [p.row.cycles / p.reference.cycles for p in pairs(rows, g, reference)] for g in colours}
    top = max((max(values) for values in ratios.values() if values), default=1.0)
    bins = np.arange(0.0, max(top, 1.0) + 0.1, 0.05)
    for ax, (guess, colour) in zip(all_axes, colours.items(), strict=True):
        _dress(ax, "", "")
        ax.set_ylabel(guess, fontsize=8, rotation=0, ha="right", va="center")
        ax.hist(ratios[guess], bins=bins, color=colour)
        ax.axvline(1.0, color="0.6", lw=0.8)
        if ratios[guess]:
            ax.axvline(float(np.mean(ratios[guess])), color="0.1", lw=0.8, ls="--")
        ax.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    all_axes[-1].set_xlabel(f"cycles / {reference}'s (dashed: mean)", fontsize=8)
    return figure


def against_size(
    rows: Sequence[Row], colours: Mapping[str, str], reference: str, value: Callable[[Pair], float], ylabel: str
) -> Figure:
    """A ratio to the reference guess against the number of atoms."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    ax = _axes(figure, "atoms", ylabel)
    ax.axhline(1.0, color="0.6", lw=0.8)
    for k, (guess, colour) in enumerate(colours.items()):
        found = pairs(rows, guess, reference)
        shift = 0.12 * (k - 0.5 * (len(colours) - 1))  # so that guesses do not hide each other
        ax.plot([p.row.n_atoms + shift for p in found], [value(p) for p in found], ".", ms=5, color=colour, label=guess)
    ax.set_ylim(bottom=0.0)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    _legend(figure)
    return figure


def wall_against_size(rows: Sequence[Row], colours: Mapping[str, str]) -> Figure:
    """Wall time with the guess counted in against the number of AOs."""
    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    ax = _axes(figure, "atomic orbitals", "guess + SCF / s")
    for guess, colour in colours.items():
        found = [r for r in rows if r.guess == guess and r.converged]
        ax.plot([r.nao for r in found], [r.seconds for r in found], ".", ms=5, color=colour, label=guess)
    times = [r.seconds for r in rows if r.guess in colours and r.converged and math.isfinite(r.seconds)]
    if times:
        logarithmic(ax, 0.7 * min(times), 1.4 * max(times))
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend(figure)
    return figure
