"""One picture of a label file: sizes, elements, splits, and what tells whether the labels are good."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from pyscf.data.elements import ELEMENTS

from data.labeltable import LabelTable

_COLOURS = ("#4477aa", "#ee6677", "#ccbb44")  # Paul Tol's bright scheme: apart for the colour-blind too


def _by_split(ax: Axes, table: LabelTable, values: NDArray, bins: NDArray) -> None:
    splits = np.array(table.split)
    parts = [s for s in ("train", "val", "test") if (splits == s).any()]
    ax.hist(
        [values[splits == s] for s in parts],
        bins=bins.tolist(),
        stacked=True,
        color=_COLOURS[: len(parts)],
        label=parts,
    )
    ax.legend(frameon=False, fontsize=8)


def draw(
    table: LabelTable, nao: NDArray[np.int64], residuals: NDArray[np.float64], gradient: float | None, path: Path
) -> None:
    """Write a PNG of six panels. nao, residuals (M,): as `data.inspect` finds them; gradient: threshold, hartree."""
    figure = Figure(figsize=(11, 6), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    _by_split(axes[0], table, table.n_atoms, np.arange(table.n_atoms.min() - 0.5, table.n_atoms.max() + 1.5))
    axes[0].set(xlabel="atoms", ylabel="structures")
    width = -(-(int(nao.max() - nao.min()) + 1) // 30)
    _by_split(axes[1], table, nao, np.arange(nao.min() - 0.5, nao.max() + width + 0.5, width))
    axes[1].set(xlabel="atomic orbitals", ylabel="structures")
    _elements(axes[2], table)
    _gradients(axes[3], table.gradient_norm, gradient)
    _residuals(axes[4], table, residuals)
    _splits(axes[5], table)
    for axis in (axes[0].xaxis, axes[1].xaxis, axes[4].xaxis, *(axes[k].yaxis for k in (0, 1, 2, 5))):
        axis.set_major_locator(MaxNLocator(integer=True))  # atoms and structures are counted
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{', '.join(p.name for p in table.paths)}: {table.xc}/{table.basis}, {len(table)} structures")
    figure.savefig(path, dpi=110)


def _elements(ax: Axes, table: LabelTable) -> None:
    elements, counts = table.composition()
    bars = ax.bar([ELEMENTS[z] for z in elements], (counts > 0).sum(axis=0), color=_COLOURS[0])
    ax.bar_label(bars, fontsize=8)
    ax.set(xlabel="element", ylabel="structures that have it")


def _gradients(ax: Axes, norms: NDArray[np.float64], gradient: float | None) -> None:
    known = norms[norms > 0]  # nan is not above 0
    ax.set(xlabel="norm of the orbital gradient, hartree", ylabel="structures")
    if not len(known):
        ax.text(0.5, 0.5, "the file tells none", ha="center", transform=ax.transAxes)
        return
    largest = max(known.max(), gradient or 0)
    ax.hist(known, bins=np.geomspace(known.min() * 0.99, largest * 2, 41).tolist(), color=_COLOURS[0])
    ax.set(xscale="log", yscale="log", ylim=(0.7, 2 * len(known)))  # few offenders are what is looked for
    if gradient is not None:
        ax.axvline(gradient, color=_COLOURS[1], linestyle="--", label=f"threshold {gradient:.0e}")
        ax.legend(frameon=False, fontsize=8, loc="upper left")


def _residuals(ax: Axes, table: LabelTable, residuals: NDArray[np.float64]) -> None:
    ax.set(xlabel="atoms", ylabel="energy less fit, hartree")
    if not np.isfinite(residuals).any():
        ax.text(0.5, 0.5, "too few structures to fit", ha="center", transform=ax.transAxes)
        return
    for colour, name, rows in (
        (_COLOURS[0], "neutral", table.charge == 0),
        (_COLOURS[1], "cations", table.charge > 0),
        (_COLOURS[2], "anions", table.charge < 0),
    ):
        if rows.any():
            ax.plot(table.n_atoms[rows], residuals[rows], ".", markersize=3, color=colour, label=name)
    ax.axhline(0, color="0.6", linewidth=0.8)
    ax.legend(frameon=False, fontsize=8, markerscale=3, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 0.98))


def _splits(ax: Axes, table: LabelTable) -> None:
    splits = np.array(table.split)
    parts = [s for s in ("train", "val", "test") if (splits == s).any()]
    parents = np.array(table.parent)
    x = np.arange(len(parts))
    for shift, colour, label, counts in (
        (-0.2, _COLOURS[0], "structures", [(splits == s).sum() for s in parts]),
        (0.2, _COLOURS[2], "molecules", [len(set(parents[splits == s])) for s in parts]),
    ):
        ax.bar_label(ax.bar(x + shift, counts, 0.38, color=colour, label=label), fontsize=8)
    ax.set_xticks(x, parts)
    ax.set(xlabel="split", ylabel="count")
    ax.legend(frameon=False, fontsize=8)
