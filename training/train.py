"""Train a model: `python -m training.train CONFIG.toml --labels FILE... --out RUN [--minutes N] [--resume]`.

The run folder gets `log.csv`, `state.pt` (to resume) and `model.pt` (the running mean of the weights, ready for
`pyscf_tracegrad.load_model`). References are computed once and cached under `runs/references`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pyscf_tracegrad.orbitals import ShellTable
from training.config import read_config
from training.dataset import load_split
from training.labels import LabelFile
from training.loop import Trainer


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="TOML file with sections [model], [schedule], [loss]")
    parser.add_argument("--labels", nargs="+", required=True, help="label files (HDF5)")
    parser.add_argument("--out", type=Path, required=True, help="run folder")
    parser.add_argument("--minutes", type=float, help="stop after so many minutes, with a state that resumes exactly")
    parser.add_argument("--resume", action="store_true", help="go on from the state in the run folder")
    parser.add_argument("--limit", type=int, help="use only so many training molecules")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--every", type=int, default=500, help="steps between validations")
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    config = read_config(a.config)
    elements = {int(z) for path in a.labels for label in LabelFile(path) for z in label.atomic_numbers}
    table = ShellTable.from_basis(LabelFile(a.labels[0]).theory.basis, elements)
    train, theory = load_split(a.labels, "train", table, config.model, a.limit)
    held_out, _ = load_split(a.labels, "val", table, config.model)
    validation = {
        "val": [d for d in held_out if not d.charge.any()],
        "val_ions": [d for d in held_out if d.charge.any()],
    }
    trainer = Trainer(config, table, theory, train, a.out, a.device, a.resume)
    parameters = sum(p.numel() for p in trainer.model.parameters())
    print(f"{len(train)} training molecules, {parameters:,} parameters, step {trainer.step}", flush=True)
    trainer.run(a.minutes, {name: data for name, data in validation.items() if data}, a.every)


if __name__ == "__main__":
    main()
