"""Ship a trained model: `python -m training.export RUN -o WEIGHTS.pt [--results RESULTS.csv...] [--about DATA.md]`.

Writes the running mean of the weights of a run, with its settings and standardisation, its checksum, and a model card
beside it. The figures of the card are those of an evaluation (`training.evaluate --out RESULTS.csv`), by default the
CSV files of evaluations in RUN. `--about` is a Markdown text on where the molecules come from and under what licence.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pyscf.data.elements import ELEMENTS

from pyscf_tracegrad.config import ModelConfig
from training.command import command, make_parser
from training.evaluate import Row, summary
from training.files import LOG, MODEL, replace_file
from training.rows import read_rows

if TYPE_CHECKING:  # torch is loaded by the work, not by the command's help
    from pyscf_tracegrad.checkpoint import Checkpoint

CARD = """\
# Model card: {name}

Correction to a reference Fock matrix, trained for starting guesses of closed-shell Kohn-Sham calculations.

SHA-256: `{digest}`

## Data

{molecules} training molecules with elements {elements}. {about}

## Level of theory

{xc} / {basis}, gas phase, closed shell.

## Settings

{config}

Run: {facts}. `training/README.md` has the commands.

## Validation

Held-out molecules; `reference` is the reference alone, without network. Made by `python -m training.evaluate`.

{figures}

Charged molecules are served by {ions}.

## Not for

Elements other than those above, other basis sets and functionals, open shells: the guess is made from F_ref there, or
without refinement from a transformed correction, and its report says so. Transition states and stretched bonds far
from what the training molecules hold: a gate rejects the network where it can be seen to be wrong, and F_ref serves.
Energies or any property: the matrix is a starting point of an SCF, and only the converged calculation is an answer.
"""

_UNTOLD = "Where they come from, and under what licence, was not told (`--about`): ask whoever made this file."
_NOT_EVALUATED = "Not evaluated."


def _settings(config: ModelConfig) -> str:
    """Lines of a Markdown list; of the damping only the steps that there are."""
    values = dataclasses.asdict(config)
    reference = config.reference
    values["reference"] |= {"damping": reference.damping[: reference.steps]}
    return "\n".join(f"* {key}: {value}" for key, value in values.items())


def card(checkpoint: Checkpoint, name: str, digest: str, figures: str, about: str = "", time: str = "") -> str:
    """Text of the model card. figures: tables of an evaluation; about: where the data come from; time: of the run."""
    facts = [f"{value} {key}" for key, value in checkpoint.metadata.items()]
    if time and "hours" not in checkpoint.metadata:  # models of earlier releases hold them
        facts.append(time)
    return CARD.format(
        name=name,
        digest=digest,
        molecules=checkpoint.metadata.get("molecules", "?"),
        about=about.strip() or _UNTOLD,
        elements=" ".join(ELEMENTS[z] for z in checkpoint.shells.elements),
        xc=checkpoint.xc + (" (PySCF's own `b3lyp` since 2.3)" if checkpoint.xc == "b3lyp" else ""),
        basis=checkpoint.basis,
        config=_settings(checkpoint.model.config),
        facts=", ".join(facts),
        figures=figures or _NOT_EVALUATED,
        ions="the network" if checkpoint.serve_ions else "F_ref alone, refined",
    )


def hours(run: Path) -> str:
    """Wall time of a run by its log, as words; nothing where there is no log that tells it."""
    try:
        with (run / LOG).open(newline="") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    except (OSError, KeyError, TypeError, ValueError):
        return ""
    return f"{seconds[-1] / 3600:.2f} hours" if seconds else ""


def evaluations(run: Path) -> list[Path]:
    """CSV files of a run folder that `training.evaluate` wrote."""
    columns = [field.name for field in dataclasses.fields(Row)]
    return [p for p in sorted(run.glob("*.csv")) if p.read_text().partition("\n")[0].strip().split(",") == columns]


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.export", __doc__)
    parser.add_argument("run", type=Path, help="run folder of training.train")
    parser.add_argument(
        "--results", type=Path, nargs="+", metavar="CSV", help="files of training.evaluate; default: those in RUN"
    )
    parser.add_argument("--about", type=Path, help="Markdown text on the molecules and their licence, for the card")
    parser.add_argument("--serve-ions", action="store_true", help="let the network serve charged molecules")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="weights file to write, NAME.pt, or a folder for RUN.pt"
    )
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    from pyscf_tracegrad.checkpoint import checksum_file, load_checkpoint, save_checkpoint

    checkpoint = dataclasses.replace(load_checkpoint(a.run / MODEL), serve_ions=a.serve_ions)
    out = a.out / f"{a.run.resolve().name}.pt" if a.out.suffix != ".pt" else a.out
    missing = [str(path) for path in a.results or () if not path.exists()]
    if missing:
        raise ValueError(f"{', '.join(missing)}: no such file; give CSV files of training.evaluate")
    rows = [row for path in a.results or evaluations(a.run) for row in read_rows(path, Row)]
    about = a.about.read_text() if a.about else ""
    out.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(out, checkpoint)
    digest = checksum_file(out).read_text().split()[0]
    text = card(checkpoint, out.stem, digest, summary(rows) if rows else "", about, hours(a.run))
    replace_file(out.with_suffix(".md"), text.encode())
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {len(rows)} rows of evaluation in its card")


if __name__ == "__main__":
    sys.exit(main())
