"""Train a model: `python -m training.train CONFIG.toml --labels FILE... --out RUN [--minutes N] [--resume]`.

The run folder gets `log.csv`, TensorBoard's events and `curves.png`, `state.pt` (to resume), `model.pt` (the running
mean of the weights, ready for `pyscf_tracegrad.load_model`), `config.toml` and `run.json`. References and tensors of
the labels are computed once and cached under `runs/references` and `runs/tensors`. Several processes:
`torchrun --nproc-per-node N -m training.train ...`, one GPU each, or CPUs with `--device cpu`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from training.command import command, make_parser, positive


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("training.train", __doc__)
    parser.add_argument("config", help="TOML file with sections [model], [schedule], [loss], [start], [hardware]")
    parser.add_argument("--labels", nargs="+", required=True, metavar="FILE", help="label files (HDF5)")
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="run folder")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, with a state that resumes exactly")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the run folder")
    parser.add_argument(
        "--validation", nargs="+", default=[], metavar="NAME=FILE",
        help="validate on the val split of other label files too, for instance of the old ones when fine-tuning",
    )  # fmt: skip
    parser.add_argument("--limit", type=positive, help="use only so many training molecules")
    parser.add_argument("--threads", type=positive, default=1, help="CPU threads of torch")
    parser.add_argument("--device", help="cpu or cuda; default: cuda where there is one")
    parser.add_argument("--every", type=positive, default=500, help="steps between validations, and between states")
    return parser


@command("references and tensors made so far are kept; run the same command again, with --resume if RUN has a state.pt")
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line. Ends with status 143 after SIGTERM and 130 after Ctrl-C, with a state once training has begun."""
    a = options().parse_args(arguments)
    import torch

    from training.distributed import process_group
    from training.prepare import prepare

    torch.set_num_threads(a.threads)
    with process_group(a.device or ("cuda" if torch.cuda.is_available() else "cpu")) as (world, device):
        trainer, molecules = prepare(a, world, device)
        trainer.run(a.minutes, molecules.validation, a.every)


if __name__ == "__main__":
    sys.exit(main())
