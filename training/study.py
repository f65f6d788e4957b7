"""Studies of what helps: many short runs that differ in one setting, and one table.

    python -m training.study NAME --labels FILE... --out DIR [--steps 500] [--seeds 3] [--minutes M] [--workers 2]

NAME: `ablation` (TraceGrad's parts, with and without the ov loss), `references` (what the network corrects), `curves`
(number of training molecules), `backbones` (qhnet_so2 and the published qhnet at equal CPU time). Stops by itself after
M minutes; the same command goes on where it stopped, and prints the table of what is there (`DIR/NAME.md`). Studies in
one DIR share the trials that they have in common. Errors are of all validation molecules; cycles of SCFs with fitted
integrals and a coarse grid, from minao and from each model without refinement, of a few of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from training.command import command, make_parser, positive
from training.files import replace_file
from training.labels import LabelFile

if TYPE_CHECKING:  # torch is loaded by the work, not by the command's help
    from training.evaluate import Row
    from training.studies.run import Place
    from training.studies.trials import Trial

NAMES = ("ablation", "references", "curves", "backbones")
CONFIGS = Path(__file__).parent / "configs"


def make_trials(a: argparse.Namespace) -> list[Trial]:
    """Trials of the study that the command line names."""
    from training.config import read_config
    from training.studies import trials

    base = trials.shortened(read_config(a.config), a.steps)
    if a.study == "ablation":
        return trials.ablation(base, a.seeds)
    if a.study == "references":
        return trials.references(base, a.seeds)
    if a.study == "curves":
        total = sum(split == "train" for path in a.labels for split in LabelFile(path).splits)
        return trials.curves(base, a.seeds, total)
    published = read_config(CONFIGS / "qhnet.toml")
    return trials.backbones(base, published, a.seeds, a.equal_minutes)


def report(study: str, place: Place, chosen: Sequence[Trial], rows: Sequence[Row]) -> str:
    """The study's tables, of the trials that are trained."""
    from training.studies.report import ablation_report, backbones_report, curves_report, references_report

    if study == "ablation":
        return ablation_report(place, chosen, rows)
    if study == "references":
        return references_report(place, chosen, rows)
    if study == "curves":
        return curves_report(chosen, rows, place.out / "curves.png")
    return backbones_report(place, chosen, rows)


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.study", __doc__)
    parser.add_argument("study", choices=NAMES, help="what is compared")
    parser.add_argument("--labels", nargs="+", required=True, metavar="FILE", help="label files (HDF5)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the studies")
    parser.add_argument("--config", type=Path, default=CONFIGS / "study.toml", help="what the trials start from")
    parser.add_argument("--steps", type=positive, default=500, help="length of every trial")
    parser.add_argument("--seeds", type=positive, default=3, help="trials of every arm, which differ in their seed")
    parser.add_argument("--equal-minutes", type=float, default=5.0, help="CPU time of each trial of `backbones`")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes; the same command goes on")
    parser.add_argument("--scf", type=int, default=12, help="neutral held-out molecules whose SCF cycles are counted")
    parser.add_argument("--workers", type=positive, default=1, help="processes")
    parser.add_argument("--threads", type=positive, default=1, help="threads per process")
    return parser


@command("trials and rows are kept; run the same command again, it goes on where it stopped")
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    a = options().parse_args(arguments)
    from training.studies.run import Place, train_all
    from training.studies.score import score_all

    chosen = make_trials(a)
    place = Place(tuple(a.labels), a.out)
    done = train_all(place, chosen, a.minutes, a.workers, a.threads)
    print(f"{done} of {len({trial.key for trial in chosen})} trials are trained", flush=True)
    if done:
        rows = score_all(place, chosen, a.scf, a.workers, a.threads)
        text = report(a.study, place, chosen, rows)
        replace_file(a.out / f"{a.study}.md", f"{text}\n".encode())
        print(text)


if __name__ == "__main__":
    sys.exit(main())
