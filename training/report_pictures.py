"""Pictures of a report page: heat maps with numbers, and errors against the number of atoms."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from training.curves import COLOURS, logarithmic
from training.report_page import Picture

Array = NDArray[np.float64]

_DPI, _PIXELS = 200, 100  # pixels per inch of the file and of the page: sharp on fine screens too
_LONGEST = 20  # characters of a molecule's name beside the scatter


def picture(figure: Figure, name: str, caption: str) -> Picture:
    """A figure as a PNG for a page. name: of its file, without ending."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():  # names in scripts that matplotlib's font lacks stand whole in the tables
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, dpi=_DPI, format="png")
    return Picture(name, buffer.getvalue(), round(figure.get_figwidth() * _PIXELS), caption)


def _cell(value: float) -> str:
    """A number of at most four characters where it can be."""
    if not np.isfinite(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 9.95 else f"{value:.2g}"


def _norm(values: Array) -> Normalize:
    positive = values[np.isfinite(values) & (values > 0)]
    if not len(positive):
        return Normalize(0.0, 1.0)
    low, high = float(positive.min()), float(positive.max())
    return LogNorm(low, max(high, 1.5 * low), clip=True)


def heat_map(values: Array, rows: Sequence[str], columns: Sequence[str]) -> Figure:
    """Map of numbers (n, m) that are written into their cells, colours on a logarithmic scale; NaN is left white.

    rows (n,), columns (m,): names of the cells' places, downwards and to the right.
    """
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"a heat map of {values.shape} needs as many names, not {len(rows)} and {len(columns)}")
    n, m = values.shape
    figure = Figure(figsize=(0.9 + 0.52 * max(m, 3), 0.85 + 0.38 * n), layout="constrained")
    ax = figure.subplots()
    colours, norm = colormaps["YlOrBr"].with_extremes(bad="white"), _norm(values)
    ax.imshow(np.ma.masked_invalid(values), cmap=colours, norm=norm, aspect="auto")
    for i, j in np.ndindex(n, m):
        dark = np.isfinite(values[i, j]) and norm(values[i, j]) > 0.6
        ax.text(
            j, i, _cell(float(values[i, j])), ha="center", va="center", fontsize=9, color="white" if dark else "0.15"
        )
    ax.set_xticks(range(m), columns, parse_math=False)
    ax.set_yticks(range(n), rows, parse_math=False)
    ax.tick_params(length=0, labelsize=9, top=False, labeltop=True, bottom=False, labelbottom=False)
    ax.spines[:].set_visible(False)
    return figure


@dataclass(frozen=True)
class Point:
    """One molecule of a scatter."""

    name: str
    charge: int
    n_atoms: int
    error: float


def size_scatter(points: Sequence[Point], named: int = 6) -> Figure:
    """Error against number of atoms, logarithmic; the `named` worst molecules are numbered, names at the right side."""
    shown = [p for p in points if np.isfinite(p.error) and p.error > 0]
    figure = Figure(figsize=(4.6, 3.3), layout="constrained")
    ax = figure.subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.set_xlabel("atoms", fontsize=8)
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    if not shown:
        ax.text(0.5, 0.5, "no error above 0", ha="center", fontsize=9, color="0.4", transform=ax.transAxes)
        return figure
    for colour, label, sign in zip(COLOURS, ("neutral", "cations", "anions"), (0, 1, -1), strict=False):
        group = [p for p in shown if np.sign(p.charge) == sign]
        if group:
            ax.plot([p.n_atoms for p in group], [p.error for p in group], ".", markersize=5, color=colour, label=label)
    sizes, errors = [p.n_atoms for p in shown], [p.error for p in shown]
    ax.set_xlim(min(sizes) - 1, max(sizes) + 1)
    logarithmic(ax, 0.8 * min(errors), 1.4 * max(errors))
    figure.legend(frameon=False, fontsize=8, loc="outside lower left", ncols=3, columnspacing=1.0, handletextpad=0.2)
    _name_worst(ax, sorted(shown, key=lambda p: -p.error)[:named])
    return figure


def _name_worst(ax: Axes, worst: Sequence[Point]) -> None:
    """Ranks beside the points, and ranks with names in a column right of the axes."""
    taken: list[tuple[float, float]] = []
    low, high = ax.get_ylim()
    for rank, point in enumerate(worst, start=1):
        height = float(np.log(point.error / low) / np.log(high / low))
        near = sum(abs(x - point.n_atoms) < 1.5 and abs(y - height) < 0.06 for x, y in taken)
        taken.append((point.n_atoms, height))
        side = ((4, "left"), (-4, "right"))[near % 2]  # of two close points, one has its number at the left
        ax.annotate(
            str(rank),
            (point.n_atoms, point.error),
            xytext=(side[0], 0),
            textcoords="offset points",
            fontsize=7,
            color="0.3",
            ha=side[1],
            va="center_baseline",
        )
        name = point.name if len(point.name) <= _LONGEST else point.name[: _LONGEST - 1] + "…"
        ax.text(1.02, 1.0 - 0.075 * rank, f"{rank}  {name}", fontsize=8, transform=ax.transAxes, parse_math=False)
