"""The report of a study: one self-contained page, and the same as Markdown."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.acceleration.pictures import against_size, convergence, ratio_histograms, wall_against_size
from training.acceleration.protocol import Protocol
from training.acceleration.ratios import FEWEST, Mean, Saving, failures, saving
from training.acceleration.runs import CONVERGED, KNOWN, Row
from training.bench.common import GUESSES
from training.bench.tables import markdown
from training.curves import COLOURS
from training.report_page import HTML, Heading, Page, Part, Pictures, Table, Text
from training.report_pictures import picture

REFERENCES = ("minao", "1e")  # what QH9's test compares with
# Published ratios on 50 molecules of QH9: model, molecules, reference guess, achieved, error level.
# QHNet: Yu et al., NeurIPS 2023 (QH9); QHNet+TraceGrad: Yin et al., arXiv 2405.05722.
PUBLISHED = (
    ("QHNet", "QH9 stable-id", "minao", "0.706 ± 0.031", "0.408"),
    ("QHNet", "QH9 stable-id", "1e", "0.395 ± 0.030", "0.635"),
    ("QHNet+TraceGrad", "QH9 stable-ood", "minao", "0.647 ± 0.061", "0.466 ± 0.035"),
    ("QHNet+TraceGrad", "QH9 stable-ood", "1e", "0.345 ± 0.038", "0.685 ± 0.037"),
)
_NAMES = 12  # molecules named in a line
_INTERVAL = "95 %"
_ON_INTERVALS = f"with a bootstrap 95 % interval of the mean from {FEWEST} molecules on"


def present(rows: Sequence[Row]) -> list[str]:
    """Guesses that have rows, in the order of the command's list."""
    have = {row.guess for row in rows}
    return [guess for guess in KNOWN if guess in have]


def colours_of(guesses: Sequence[str]) -> dict[str, str]:
    """Those that pictures show, as many as there are colours: the models, minao and 1e before PySCF's others."""
    drawn = [g for g in guesses if g != CONVERGED]
    drawn.sort(key=lambda g: g not in (*GUESSES, *REFERENCES))  # stable
    return dict(zip(drawn, COLOURS, strict=False))


def savings(rows: Sequence[Row]) -> list[Saving]:
    """Every guess against every reference guess that ran."""
    have = present(rows)
    return [saving(rows, guess, ref) for ref in REFERENCES if ref in have for guess in have if guess != ref]


def _cell(mean: Mean) -> tuple[str, str]:
    """Mean ± spread, and the interval."""
    if not mean.n:
        return "-", "-"
    return f"{mean.mean:.3f} ± {mean.std:.3f}", f"{mean.low:.3f} to {mean.high:.3f}" if mean.has_interval else "-"


def _without_empty(header: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> Table:
    """A table without the columns `95 %` that have no interval in any row."""
    kept = [k for k, name in enumerate(header) if name != _INTERVAL or any(row[k] not in ("", "-") for row in rows)]
    return Table(tuple(header[k] for k in kept), tuple(tuple(row[k] for k in kept) for row in rows), words)


def _published_table(found: Sequence[Saving]) -> list[Part]:
    rows = [
        (
            s.guess,
            "these",
            s.reference,
            str(s.achieved.n),
            *_cell(s.achieved),
            _cell(s.error_level)[0],
            str(len(s.never)),
        )
        for s in found
    ]
    rows += [(model, where, ref, "50", achieved, "", level, "") for model, where, ref, achieved, level in PUBLISHED]
    note = (
        "As QH9's script counts: steps are the index of the last cycle, from 0. Achieved: steps over those from the "
        "reference guess (lower is better). Error level: the first step of the reference run whose Fock matrix, before "
        "extrapolation, is nearer to the converged one than the prediction is, over its steps (higher is better); for "
        "guesses that predict no matrix, that of their density. Mean and standard deviation over molecules, "
        f"{_ON_INTERVALS}. The published rows are of other molecules unless the set is QH9's."
    )
    header = ("guess", "molecules", "against", "n", "achieved", _INTERVAL, "error level", "never reached")
    return [Heading("The published ratios"), Text(note), _without_empty(header, rows, words=3)]


def _our_table(found: Sequence[Saving]) -> list[Part]:
    timed = any(s.wall.n for s in found)
    rows = []
    for s in found:
        means = (s.cycles, s.builds, s.wall, s.cpu) if timed else (s.cycles, s.builds)
        totals = (s.total_cycles, s.total_wall) if timed else (s.total_cycles,)
        cells = [text for mean in means for text in _cell(mean)]
        sums = [f"{value:.3f}" if math.isfinite(value) else "-" for value in totals]
        rows.append((s.guess, s.reference, str(s.n), *cells, *sums, str(len(s.slower))))
    times = " wall and processor time with the guess counted in," if timed else ""
    note = (
        f"PySCF's cycles, Fock builds (those of the guess counted in),{times} each over those from the reference "
        f"guess, means over molecules {_ON_INTERVALS}; "
        "then ratios of the sums, and how many molecules take more than one cycle more."
    )
    wall, total_wall = (("wall", _INTERVAL, "CPU", _INTERVAL), ("sum of wall",)) if timed else ((), ())
    means = ("cycles", _INTERVAL, "Fock builds", _INTERVAL, *wall)
    header = ("guess", "against", "n", *means, "sum of cycles", *total_wall, "slower")
    return [Heading("What it saves"), Text(note), _without_empty(header, rows, words=2)]


# What the means of one guess are of: columns of a row by their heading; times only where there are any.
_COLUMNS = {"cycles": "cycles", "Fock builds": "builds"}
_TIMES = {"guess, s": "guess_seconds", "SCF, s": "scf_seconds", "guess, CPU s": "guess_cpu", "SCF, CPU s": "scf_cpu"}


def _costs(rows: Sequence[Row]) -> list[Part]:
    columns = _COLUMNS | (_TIMES if any(math.isfinite(row.seconds) for row in rows) else {})
    lines = []
    for guess in present(rows):
        mine = [r for r in rows if r.guess == guess and r.converged]
        means = [float(np.mean([getattr(r, name) for r in mine])) if mine else math.nan for name in columns.values()]
        error = float(np.mean([r.prediction for r in mine])) if mine else math.nan
        cells = [f"{m:.2f}" if math.isfinite(m) else "-" for m in means]
        total = sum(r.guess == guess for r in rows)
        lines.append((guess, f"{len(mine)} of {total}", *cells, f"{1e6 * error:.0f}" if math.isfinite(error) else "-"))
    header = ("guess", "converged", *columns, "error, 1e-6 hartree")
    return [Heading("Each guess"), Table(header, tuple(lines))]


def _pictures(rows: Sequence[Row]) -> list[Part]:
    colours = colours_of(present(rows))
    others = {guess: colour for guess, colour in colours.items() if guess != "minao"}
    drawn = [picture(convergence(rows, colours), "convergence", "Error against cycles, median over molecules")]
    if others:
        ratio = "cycles / minao's"
        drawn += [
            picture(ratio_histograms(rows, others, "minao"), "ratios", "Ratios of cycles"),
            picture(
                against_size(rows, others, "minao", lambda p: p.row.cycles / p.reference.cycles, ratio),
                "ratio_size",
                "Ratio of cycles against size",
            ),
        ]
    if any(math.isfinite(row.seconds) for row in rows):
        drawn.append(picture(wall_against_size(rows, colours), "wall_size", "Wall time against size"))
    return [Heading("Pictures"), Pictures(tuple(drawn))]


def _no_failure(rows: Sequence[Row], found: Sequence[Saving]) -> str:
    """That nothing failed, and which of PySCF's own guesses were slower, which is no failure of this package."""
    text = "None: every SCF converged to minao's energy"
    if any(row.guess in GUESSES for row in rows):
        text += ", and from no guess of this package did one take more than one cycle more than from minao"
    slower = [s for s in found if s.reference == "minao" and s.slower and s.guess not in GUESSES]
    others = ", ".join(f"{s.guess} for {len(s.slower)} of {s.n} molecules" for s in slower)
    return f"{text}. PySCF's own that did: {others}." if others else f"{text}."


def _failures(rows: Sequence[Row], found: Sequence[Saving]) -> list[Part]:
    lines = tuple((f.molecule, f.guess, f.reason) for f in failures(rows))
    parts: list[Part] = [Heading(f"Failures ({len(lines)})")]
    if lines:
        parts.append(Table(("molecule", "guess", "what happened"), lines, words=3))
    else:
        parts.append(Text(_no_failure(rows, found)))
    for s in found:
        if s.never:
            names = ", ".join(s.never[:_NAMES]) + (" and others" if len(s.never) > _NAMES else "")
            text = f"{s.guess}: the run from {s.reference} never came as near as the prediction for {names}."
            parts.append(Text(text))
    return parts


def _summary(rows: Sequence[Row], found: Sequence[Saving]) -> str:
    molecules = {row.molecule for row in rows}
    sizes = [row.n_atoms for row in rows]
    text = f"{len(molecules)} molecules of {min(sizes)} to {max(sizes)} atoms, {len(rows)} SCFs."
    for s in found:
        if s.guess == "tracegrad" and s.reference == "minao" and s.n:
            text += (
                f" From tracegrad they take {s.cycles.mean:.3f} of minao's cycles"
                + (f" and {s.wall.mean:.3f} of its wall time with the guess counted in" if s.wall.n else "")
                + f" (means over {s.n} molecules)."
            )
    return text


def make_page(name: str, protocol: Protocol, environment: dict[str, str], rows: Sequence[Row]) -> Page:
    """The page of a study. name: of the set."""
    found = savings(rows)
    settings = {k: str(v) for k, v in dataclasses.asdict(protocol).items()}
    settings |= {"regime": protocol.regime or "PySCF's choice", "model": protocol.model or "the shipped one"}
    facts = tuple((settings | environment).items())
    parts: list[Part] = [Text(_summary(rows, found)), *_our_table(found), *_published_table(found), *_costs(rows)]
    parts += [*_pictures(rows), *_failures(rows, found), Heading("How it was calculated")]
    return Page(f"Acceleration study: {name}", (*parts, Table(("setting", "value"), facts, words=2)))


def write_report(folder: Path, name: str, protocol: Protocol, environment: dict[str, str], rows: Sequence[Row]) -> str:
    """Write `report.html` and `report.md` with its pictures; returns a table to print."""
    if not rows:
        return f"{folder}: no results yet"
    make_page(name, protocol, environment, rows).write(folder)
    lines = [
        [s.guess, s.reference, str(s.n), str(s.achieved), str(s.cycles), str(s.wall), str(len(s.slower))]
        for s in savings(rows)
    ]
    header = ["guess", "against", "n", "achieved (QH9)", "cycles", "wall", "slower"]
    return f"{markdown(header, lines)}\n\n{folder / HTML}"
