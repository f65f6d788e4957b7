"""Learning curves of a run as one picture: `python -m training.curves RUN [-o PICTURE.png]`.

The picture is drawn from `log.csv` of the run folder; a running training draws it again after every validation.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from training.command import command, make_parser
from training.files import LOG

if TYPE_CHECKING:  # matplotlib is loaded where something is drawn
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator

Array = NDArray[np.float64]

PICTURE = "curves.png"
COLOURS = ("#4477aa", "#ee6677", "#ccbb44", "#228833", "#66ccee", "#aa3377")  # Paul Tol's bright scheme
_FEW = 40  # points; more make the dots a band


@dataclass(frozen=True)
class _Panel:
    """One quantity of the log: ending of its columns, heading, factor from the log's unit to the drawn one."""

    ending: str
    heading: str
    factor: float = 1.0


_PANELS = (
    _Panel("mae", "MAE of F, 1e-6 hartree", 1e6),
    _Panel("ov", "occupied-virtual error"),
    _Panel("mo", "error in the MO basis, 1e-3 hartree", 1e3),
    _Panel("trace", "trace loss, standard units"),
)


@dataclass(frozen=True)
class Curves:
    """A log: step (n,), ascending; seconds (n,); columns: name -> values (n,), NaN where the log has none."""

    step: Array
    seconds: Array
    columns: Mapping[str, Array]

    def series(self, ending: str) -> dict[str, tuple[Array, Array]]:
        """Steps and values of every set of molecules with a column NAME_ending: NAME -> (steps, values).

        Values that a logarithmic axis cannot show, NaN, infinite and not positive ones, are left out, as are sets
        without any other.
        """
        found = {}
        for name in self.sets(ending):
            values = self.columns[f"{name}_{ending}"]
            good = np.isfinite(values) & (values > 0)
            if good.any():
                found[name] = self.step[good], values[good]
        return found

    def sets(self, ending: str) -> list[str]:
        """Names of the sets of molecules with a column NAME_ending, in the order of the log."""
        parts = [column.rpartition("_") for column in self.columns]
        return [name for name, _, last in parts if name and last == ending]


def _number(text: object) -> float:
    try:
        return float(text)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return math.nan


def read_log(log: Path) -> Curves:
    """Read a run's log. Empty cells, unfinished lines and words are NaN; of two rows of a step the later one counts.

    Raises ValueError where the log is missing, or holds no row with a step.
    """
    try:
        with log.open(newline="") as file:
            reader = csv.DictReader(file, restval="")
            rows = {_number(row.get("step")): row for row in reader}  # a resumed run may repeat its last steps
            names = [name for name in reader.fieldnames or () if name]
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ValueError(f"{log}: cannot be read ({reason}); give the folder of a training run") from None
    steps = sorted(step for step in rows if math.isfinite(step))
    if not steps:
        raise ValueError(f"{log}: no row with a step yet; training writes one at each validation")
    columns = {name: np.array([_number(rows[step][name]) for step in steps]) for name in names}
    seconds = columns.get("seconds", np.full(len(steps), math.nan))
    return Curves(np.array(steps), seconds, columns)


def _plain(value: float, _: object = None) -> str:
    """A number as people write it: 250, 0.05, 2e-4."""
    if 1e-2 <= abs(value) < 1e5:
        return f"{value:.3g}" if abs(value) < 1e3 else f"{value:.0f}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def _locator(low: float, high: float) -> Locator:
    """Ticks of a logarithmic axis: some in every range, nowhere too many."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    if high / low < 3:
        return MaxNLocator(5)
    if high / low < 12:
        return LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0))
    return LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 300 else (1.0,), numticks=9)


def logarithmic(ax: Axes, low: float, high: float) -> None:
    """Give an axes a logarithmic y-axis from low to high, with ticks and grid lines in every range."""
    from matplotlib.ticker import FuncFormatter, NullLocator

    ax.set(yscale="log", ylim=(low, high))
    ax.yaxis.set_major_locator(_locator(low, high))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(_plain))
    ax.grid(axis="y", color="0.92", linewidth=0.8)
    ax.set_axisbelow(True)


def _draw_panel(ax: Axes, panel: _Panel, curves: Curves, colours: Mapping[str, str]) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    series = curves.series(panel.ending)
    if not series:
        ax.text(0.5, 0.5, "not in the log yet", ha="center", color="0.4", fontsize=9, transform=ax.transAxes)
        ax.set_axis_off()
        return
    for name, (steps, values) in series.items():
        scaled = panel.factor * values
        marker = "." if len(steps) <= _FEW else ""
        ax.plot(steps, scaled, color=colours[name], marker=marker, linewidth=1.2, label=f"{name}: {_plain(scaled[-1])}")
    ax.set_xlabel("step", fontsize=8)
    ax.set_xlim(np.array([-0.02, 1.03]) * max(1.0, curves.step[-1]))
    every = panel.factor * np.concatenate([values for _, values in series.values()])
    logarithmic(ax, every.min() / 1.15, every.max() * 1.15)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend = ax.legend(frameon=False, fontsize=8, loc="upper right", labelspacing=0.25, borderaxespad=0.1)
    for text in legend.get_texts():
        text.set_parse_math(False)  # names come from a file


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def title(curves: Curves, name: str) -> str:
    """Name of a run, steps and wall time so far."""
    parts = [name, f"step {curves.step[-1]:,.0f}"]
    known = np.isfinite(curves.seconds) & (curves.seconds > 0)
    if known.any():
        seconds, step = curves.seconds[known][-1], curves.step[known][-1]
        parts += [_duration(seconds), f"{seconds / step:.2g} s a step"] if step > 0 else [_duration(seconds)]
    return ", ".join(parts)


def _colours(curves: Curves) -> dict[str, str]:
    """Colour of every set of molecules, the same in all panels and, as a run goes on, in all pictures."""
    names = dict.fromkeys(["train", *(name for panel in _PANELS for name in curves.sets(panel.ending))])
    return {name: COLOURS[k % len(COLOURS)] for k, name in enumerate(names)}


def draw_curves(log: Path, picture: Path) -> None:
    """Draw a run's log as a PNG of four panels over the steps, wall time in the title; atomic, so readers see no half.

    log: `log.csv` with columns step, seconds, and NAME_mae (hartree), NAME_ov, NAME_mo (hartree), NAME_trace of every
    set of molecules, `train` and the validation sets; others are ignored and any but the step may be missing. Legends
    tell the last values. Raises ValueError where the log is missing or has no row.
    """
    from matplotlib.figure import Figure

    curves = read_log(log)
    colours = _colours(curves)
    figure = Figure(figsize=(9, 5.6))
    figure.subplots_adjust(0.06, 0.08, 0.985, 0.9, 0.14, 0.4)  # a layout engine would double the time
    for ax, panel in zip(figure.subplots(2, 2).ravel(), _PANELS, strict=True):
        _draw_panel(ax, panel, curves, colours)
        ax.set_title(panel.heading, fontsize=9, loc="left")
    figure.suptitle(title(curves, log.resolve().parent.name), fontsize=10, parse_math=False)
    partial = picture.with_name(f".{picture.name}.{os.getpid()}.tmp")
    try:
        figure.savefig(partial, dpi=110, format="png")
        partial.replace(picture)
    finally:
        partial.unlink(missing_ok=True)


def panel_figures(curves: Curves) -> dict[str, Figure]:
    """The panels of `draw_curves` that have a value, each a figure without heading for a page: heading -> figure."""
    from matplotlib.figure import Figure

    colours, found = _colours(curves), {}
    for panel in _PANELS:
        if curves.series(panel.ending):
            figure = Figure(figsize=(4.0, 2.8), layout="constrained")
            _draw_panel(figure.subplots(), panel, curves, colours)
            found[panel.heading] = figure
    return found


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.curves", __doc__)
    parser.add_argument("run", type=Path, help="run folder with its log.csv")
    parser.add_argument("-o", "--out", type=Path, help=f"the picture; default: {PICTURE} in the run folder")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    picture = a.out or a.run / PICTURE
    draw_curves(a.run / LOG, picture)
    print(picture)


if __name__ == "__main__":
    sys.exit(main())
