"""A page about a trained model: `python -m training.report RUN --labels FILE... [--split val] [--limit N] [-o FOLDER]`.

Writes `report.html`, one file that needs no other, and `report.md` with its pictures: settings, learning curves, errors
of the Fock matrices of held-out molecules, maps of them by element and shell. The model is `model.pt` of the run, its
running mean; references come from the cache, and no SCF is run.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pyscf import gto

from training.command import command, make_parser, positive
from training.files import CONFIG, LOG, MODEL
from training.metrics import FockErrors
from training.references import CACHE
from training.report_page import HTML, Code, Heading, Page, Part, Pictures, Table, Text

if TYPE_CHECKING:  # torch and matplotlib are loaded by the work, not by the command's help
    from pyscf_tracegrad.checkpoint import Checkpoint
    from training.report_errors import MoleculeErrors

_WORST = 10  # molecules in the list
_MICRO = 1e6


def _flat(settings: object, prefix: str = "") -> Iterable[tuple[str, str]]:
    """Names and values of a settings dataclass, nested ones as `outer.inner`."""
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from _flat(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _settings(checkpoint: Checkpoint, run: Path) -> list[Part]:
    model = checkpoint.model
    elements = " ".join(gto.mole._std_symbol(z) for z in checkpoint.shells.elements)
    facts = {
        "level of theory": f"{checkpoint.xc}/{checkpoint.basis}",
        "elements": elements,
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "ions are served by": "the network" if checkpoint.serve_ions else "the reference alone",
        **checkpoint.metadata,
    }
    parts: list[Part] = [
        Heading("The model"),
        Table(("fact", "value"), tuple(facts.items()), words=2),
        Heading("Settings of the model"),
        Table(("setting", "value"), tuple(_flat(model.config)), words=2),
    ]
    if (run / CONFIG).exists():  # runs of older releases have none
        config = (run / CONFIG).read_text(errors="replace")
        parts += [Heading("Settings of the run"), Code(tuple(config.splitlines()), "toml")]
    return parts


def _curves(run: Path) -> list[Part]:
    from training.curves import panel_figures, read_log, title
    from training.report_pictures import picture

    parts: list[Part] = [Heading("Learning curves")]
    try:
        curves = read_log(run / LOG)
    except ValueError as error:
        return [*parts, Text(f"No curves: {error}.")]
    drawn = [picture(f, f"curve_{k}", name) for k, (name, f) in enumerate(panel_figures(curves).items(), start=1)]
    return [
        *parts,
        Text(f"{title(curves, run.resolve().name)}. Numbers in legends: last value."),
        Pictures(tuple(drawn)),
    ]


_COLUMNS = ("MAE", "on-site", "pairs", "less mu S", "eps", "gap", "psi", "ov")


def _numbers(errors: Sequence[FockErrors]) -> tuple[str, ...]:
    """Means over molecules as cells below `_COLUMNS`, energies in 1e-6 hartree."""
    names = ("mae", "mae_diagonal", "mae_off_diagonal", "mae_shifted", "eps", "gap_error")
    return (*(energy(mean(errors, name)) for name in names), f"{mean(errors, 'psi'):.4f}", f"{mean(errors, 'ov'):.2e}")


def mean(errors: Sequence[FockErrors], name: str) -> float:
    """Mean of one metric over molecules, those left out that have none; nan where none has one."""
    values = np.array([getattr(e, name) for e in errors])
    good = values[np.isfinite(values)]
    return float(good.mean()) if len(good) else float("nan")


def energy(value: float) -> str:
    """An energy in 1e-6 hartree, as the page shows it."""
    return f"{_MICRO * value:.1f}" if np.isfinite(value) else "-"


def _summary(found: Sequence[MoleculeErrors]) -> list[Part]:
    rows = []
    for group, ions in (("neutral", False), ("ions", True)):
        chosen = [m for m in found if (m.charge != 0) == ions]
        for route, errors in (("network", [m.model for m in chosen]), ("F_ref alone", [m.reference for m in chosen])):
            if chosen:
                rows.append((group, route, str(len(chosen)), *_numbers(errors)))
    note = (
        "Means over molecules; MAE, eps and gap in 1e-6 hartree. MAE is that of the Fock matrix in the AO basis: of "
        "all elements, of the on-site blocks, of the blocks of pairs of atoms, and of all again less mu S, the "
        "least-squares constant potential. eps: occupied orbital energies. psi: cosine of the coefficients of occupied "
        "orbitals. ov: occupied-virtual error, the first-order error of the density. F_ref alone is what the network "
        "corrects; the network is applied to ions here even where the model leaves them to F_ref."
    )
    return [Heading("Errors"), Text(note), Table(("molecules", "guess", "n", *_COLUMNS), tuple(rows), words=2)]


def _maps(found: Sequence[MoleculeErrors]) -> list[Part]:
    from training.report_pictures import heat_map, picture

    blocks = found[0].blocks
    for molecule in found[1:]:
        blocks += molecule.blocks
    elements, shells = blocks.elements, blocks.shell_names
    maps = (
        ("on_site_elements", "On-site blocks by element", blocks.site_mae_by_element()[None], ("on-site",), elements),
        ("pair_elements", "Pair blocks by elements", blocks.pair_mae_by_elements(), elements, elements),
        ("on_site_shells", "On-site blocks by shells", blocks.site_mae_by_shells(), shells, shells),
        ("pair_shells", "Pair blocks by shells", blocks.pair_mae_by_shells(), shells, shells),
    )
    drawn = [
        picture(heat_map(_MICRO * values, rows, columns), name, head) for name, head, values, rows, columns in maps
    ]
    note = (
        "Mean error over the matrix elements of all these molecules, in 1e-6 hartree, colours on a logarithmic scale. "
        "Shells are counted within each element, so 2s of H stands with 2s of C."
    )
    return [Heading("Errors by element and shell"), Text(note), Pictures(tuple(drawn))]


def _molecules(found: Sequence[MoleculeErrors]) -> list[Part]:
    from training.report_pictures import Point, picture, size_scatter

    points = [Point(m.name, m.charge, m.n_atoms, m.model.ov) for m in found]
    worst = sorted(found, key=lambda m: -m.model.ov)[:_WORST]
    rows = [
        (m.name, m.formula, f"{m.charge:+d}" if m.charge else "0", str(m.n_atoms), *_numbers([m.model])) for m in worst
    ]
    scatter = picture(size_scatter(points), "size", "Occupied-virtual error against number of atoms")
    return [
        Heading("Molecules"),
        Pictures((scatter,)),
        Text(f"The {len(rows)} molecules of the largest occupied-virtual error:"),
        Table(("molecule", "formula", "charge", "atoms", *_COLUMNS), tuple(rows), words=2),
    ]


def make_report(
    run: Path, paths: Sequence[Path], split: str = "val", limit: int | None = None, cache: Path = CACHE
) -> Page:
    """The page of a run, for the molecules of a split, at most `limit` of each label file.

    Raises ValueError where the run has no model, and what `load_checkpoint` and `measure` raise.
    """
    if not (run / MODEL).exists():
        raise ValueError(f"{run}: no {MODEL} in it; give the folder of a run that has been validated once")
    from pyscf_tracegrad.checkpoint import load_checkpoint
    from training.report_errors import measure

    checkpoint = load_checkpoint(run / MODEL)
    found = measure(checkpoint, paths, split, limit, cache)
    head = f"{len(found)} molecules of split {split} from {', '.join(str(p) for p in paths)}."
    return Page(
        f"Run {run.resolve().name}",
        (Text(head), *_summary(found), *_molecules(found), *_maps(found), *_curves(run), *_settings(checkpoint, run)),
    )


def commands(a: argparse.Namespace) -> Code:
    """The commands that make the references and the page."""
    labels = [str(path) for path in a.labels]
    report = ["python", "-m", "training.report", str(a.run), "--labels", *labels, "--split", a.split]
    report += ["--limit", str(a.limit)] if a.limit is not None else []
    report += ["--cache", str(a.cache)] if a.cache != CACHE else []
    report += ["-o", str(a.out)] if a.out else []
    return Code((shlex.join(["python", "-m", "training.references", "--labels", *labels]), shlex.join(report)))


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.report", __doc__)
    parser.add_argument("run", type=Path, help="run folder with its model.pt and log.csv")
    parser.add_argument("--labels", nargs="+", type=Path, required=True, metavar="FILE", help="label files (HDF5)")
    parser.add_argument("--split", default="val", help="molecules to measure")
    parser.add_argument("--limit", type=positive, help="only so many molecules of each file")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the references")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="of the page; default: `report` in RUN")
    return parser


@command("references made so far are kept, run the same command again")
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    out = a.out or a.run / "report"
    page = make_report(a.run, a.labels, a.split, a.limit, a.cache)
    page = dataclasses.replace(page, parts=(*page.parts, Heading("Commands"), commands(a)))
    page.write(out)
    print(out / HTML)


if __name__ == "__main__":
    sys.exit(main())
