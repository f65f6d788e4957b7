"""Ship a trained model: `python -m training.export RUN -o WEIGHTS.pt [--results RESULTS.csv...] [--about DATA.md]`.

Writes the running mean of the weights of a run, with its settings and standardisation, its checksum, and a model card
beside it. The figures of the card are those of an evaluation (`training.evaluate --out RESULTS.csv`), by default the
CSV files of evaluations in RUN. `--about` is a Markdown text on where the molecules come from and under what licence.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from pyscf.data.elements import ELEMENTS

from pyscf_tracegrad.checkpoint import Checkpoint, checksum_file, load_checkpoint, save_checkpoint
from training.evaluate import Row, summary
from training.loop import MODEL
from training.rows import read_rows

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

Elements other than those above and other basis sets (the package steps aside with a reason), open shells, transition
states and stretched bonds far from what the training molecules hold, energies or any property: the matrix is a starting
point of an SCF, and only the converged calculation is an answer.
"""

_UNTOLD = "Where they come from, and under what licence, was not told (`--about`): ask whoever made this file."
_NOT_EVALUATED = "Not evaluated."


def card(checkpoint: Checkpoint, name: str, digest: str, figures: str, about: str = "") -> str:
    """Text of the model card. figures: tables of an evaluation; about: where the data come from."""
    config = dataclasses.asdict(checkpoint.model.config)
    return CARD.format(
        name=name,
        digest=digest,
        molecules=checkpoint.metadata.get("molecules", "?"),
        about=about.strip() or _UNTOLD,
        elements=" ".join(ELEMENTS[z] for z in checkpoint.shells.elements),
        xc=checkpoint.xc + (" (PySCF's own `b3lyp` since 2.3)" if checkpoint.xc == "b3lyp" else ""),
        basis=checkpoint.basis,
        config="\n".join(f"* {key}: {value}" for key, value in config.items()),
        facts=", ".join(f"{value} {key}" for key, value in checkpoint.metadata.items()),
        figures=figures or _NOT_EVALUATED,
        ions="the network" if checkpoint.serve_ions else "the reference alone",
    )


def evaluations(run: Path) -> list[Path]:
    """CSV files of a run folder that `training.evaluate` wrote."""
    columns = [field.name for field in dataclasses.fields(Row)]
    return [p for p in sorted(run.glob("*.csv")) if p.read_text().partition("\n")[0].strip().split(",") == columns]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder of training.train")
    parser.add_argument(
        "--results", type=Path, nargs="+", help="CSV files of training.evaluate; those in RUN by default"
    )
    parser.add_argument("--about", type=Path, help="Markdown text on the molecules and their licence, for the card")
    parser.add_argument("--serve-ions", action="store_true", help="let the network serve charged molecules")
    parser.add_argument("-o", "--out", type=Path, required=True, help="weights file to write, or a folder for it")
    a = parser.parse_args()
    checkpoint = dataclasses.replace(load_checkpoint(a.run / MODEL), serve_ions=a.serve_ions)
    out = a.out / f"{checkpoint.model.config.backbone}.pt" if a.out.suffix != ".pt" else a.out
    out.parent.mkdir(parents=True, exist_ok=True)
    rows = [row for path in a.results or evaluations(a.run) for row in read_rows(path, Row)]
    about = a.about.read_text() if a.about else ""
    save_checkpoint(out, checkpoint)
    digest = checksum_file(out).read_text().split()[0]
    out.with_suffix(".md").write_text(card(checkpoint, out.stem, digest, summary(rows) if rows else "", about))
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB, {len(rows)} rows of evaluation in its card")


if __name__ == "__main__":
    main()
