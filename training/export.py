"""Ship a trained model: `python -m training.export RUN --results RESULTS.csv [--serve-ions] [-o WEIGHTS.pt]`.

Copies the running mean of the weights of a run with its checksum, and writes the model card beside it, with the
figures of an evaluation (`training.evaluate --out RESULTS.csv`).
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from pyscf_tracegrad.checkpoint import Checkpoint, checksum_file, load_checkpoint, save_checkpoint
from pyscf_tracegrad.pretrained import SHIPPED
from training.evaluate import Row, summary
from training.loop import MODEL
from training.rows import read_rows

CARD = """\
# Model card: {name}

Correction to a reference Fock matrix, trained for starting guesses of closed-shell Kohn-Sham calculations. Licence:
that of the package (Apache-2.0); trained on our own labels only, of CC0 geometries.

SHA-256: `{digest}`

## Data

{molecules} molecules with elements {elements}: QM9 molecules (CC0) of 3 to 22 atoms, 300 K snapshots of them by
GFN2-xTB, some monomers of SPICE's DES sets (CC0), and closed-shell ions of QM9 molecules, made by adding or removing a
proton. Converged Fock matrices by PySCF 2.14, orbital gradient below 2e-6 (seven of 1410: below 9e-6). No validation
molecule, in any frame or charge, was trained on; the test molecules of QH9's published splits are not among the
training molecules. `data/manifests/shipped.csv` lists every structure with its energy.

## Level of theory

{xc} / {basis}, grid level 3, gas phase, closed shell.

## Settings

{config}

Run: {facts}. `training/configs/shipped.toml` and `training/README.md` have the commands.

## Validation

Held-out molecules; cycles are PySCF's at its default settings, `reference` is the reference alone, without network.
Made by `python -m training.evaluate --labels FILE... --routes network reference --out RESULTS.csv`.

{figures}

Charged molecules are served by {ions}, as the figures above say.

## Not for

Other elements and other basis sets (the package steps aside with a warning), open shells, transition states and
stretched bonds far from what QM9 and its 300 K snapshots hold, energies or any property: the matrix is a starting
point of an SCF, and only the converged calculation is an answer.
"""


def card(checkpoint: Checkpoint, name: str, digest: str, figures: str) -> str:
    """Text of the model card."""
    config = dataclasses.asdict(checkpoint.model.config)
    names = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F"}
    return CARD.format(
        name=name,
        digest=digest,
        molecules=checkpoint.metadata["molecules"],
        elements=" ".join(names.get(z, str(z)) for z in checkpoint.shells.elements),
        xc=checkpoint.xc + (" (PySCF's own `b3lyp` since 2.3)" if checkpoint.xc == "b3lyp" else ""),
        basis=checkpoint.basis,
        config="\n".join(f"* {key}: {value}" for key, value in config.items()),
        facts=", ".join(f"{value} {key}" for key, value in checkpoint.metadata.items()),
        figures=figures,
        ions="the network" if checkpoint.serve_ions else "the reference alone",
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder of training.train")
    parser.add_argument("--results", type=Path, nargs="+", required=True, help="CSV files of training.evaluate")
    parser.add_argument("--serve-ions", action="store_true", help="let the network serve charged molecules")
    parser.add_argument("-o", "--out", type=Path, default=SHIPPED, help="weights file to write")
    a = parser.parse_args()
    checkpoint = dataclasses.replace(load_checkpoint(a.run / MODEL), serve_ions=a.serve_ions)
    save_checkpoint(a.out, checkpoint)
    digest = checksum_file(a.out).read_text().split()[0]
    text = card(checkpoint, a.out.stem, digest, summary([row for path in a.results for row in read_rows(path, Row)]))
    a.out.with_suffix(".md").write_text(text)
    print(f"{a.out}: {a.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
