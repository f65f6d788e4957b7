"""What a training run starts with: its molecules, and a Trainer for a command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch_geometric.data import Data

from pyscf_tracegrad.checkpoint import Checkpoint
from pyscf_tracegrad.orbitals import ShellTable
from training.config import RunConfig, read_config
from training.dataset import FockData, label_elements, load_split
from training.distributed import World
from training.facts import check_labels_unchanged, facts, write_facts
from training.labels import LabelFile, Theory
from training.loop import STATE, Trainer
from training.start import check_shells, check_theory, load_start


@dataclass(frozen=True)
class Molecules:
    """Training molecules, named validation sets, and what they have in common."""

    train: list[FockData]
    validation: dict[str, list[Data]]
    table: ShellTable
    theory: Theory


def load_molecules(
    config: RunConfig, labels: Sequence[str], named: dict[str, str], limit: int | None = None
) -> Molecules:
    """Training split of label files; as validation their val split, ions apart, and the val splits of `named` files.

    Raises ValueError for files that do not fit each other or the model that the run starts from.
    """
    start = load_start(config.start)
    theory, table = LabelFile(labels[0]).theory, _table(labels, start, config)
    for name, path in named.items():
        owner = f"the run (validation set {name!r})"
        check_theory(LabelFile(path).theory, theory, owner)
        check_shells(label_elements([path]), theory.basis, table, owner)
    train, theory = load_split(labels, "train", table, config.model, limit)
    held_out, _ = load_split(labels, "val", table, config.model)
    validation = {
        "val": [d for d in held_out if not d.charge.any()],
        "val_ions": [d for d in held_out if d.charge.any()],
    }
    for name, path in named.items():
        validation[name], _ = load_split([path], "val", table, config.model)
    return Molecules(train, {name: data for name, data in validation.items() if data}, table, theory)


def _table(labels: Sequence[str], start: Checkpoint | None, config: RunConfig) -> ShellTable:
    elements, theory = label_elements(labels), LabelFile(labels[0]).theory
    if start is None:
        return ShellTable.from_basis(theory.basis, elements)
    owner = f"the model {config.start.model!r}"
    check_theory(theory, Theory(start.xc, start.basis), owner)
    check_shells(elements, theory.basis, start.shells, owner)
    return start.shells


def _named_files(items: Sequence[str]) -> dict[str, str]:
    """NAME=FILE, each. Raises ValueError."""
    found: dict[str, str] = {}
    for item in items:
        name, _, path = item.partition("=")
        if not name.isidentifier() or not path:
            raise ValueError(f"--validation takes NAME=FILE with a NAME of letters, digits and _, not {item!r}")
        if name in found or name in ("train", "val", "val_ions"):
            raise ValueError(f"--validation: the name {name!r} is taken; give another one")
        found[name] = path
    return found


def prepare(a: argparse.Namespace, world: World, device: torch.device) -> tuple[Trainer, Molecules]:
    """Trainer and molecules of a command line. Raises ValueError."""
    named = _named_files(a.validation)
    if a.resume:
        check_labels_unchanged(a.out, a.labels)
    elif (a.out / STATE).exists():
        raise ValueError(f"{a.out} holds a run; go on with it (--resume) or give another --out")
    config = read_config(a.config)
    if not world.leads:
        world.wait()  # the first process converts the labels, the others read its files
    molecules = load_molecules(config, a.labels, named, a.limit)
    if world.leads:
        world.wait()
    trainer = Trainer(config, molecules.table, molecules.theory, molecules.train, a.out, device, a.resume)
    if world.leads:
        content = facts(trainer, a.labels, named)
        if not a.resume:
            write_facts(a.out, content)
        print(
            f"{len(molecules.train)} training molecules, {content['parameters']:,} parameters, step {trainer.step}",
            flush=True,
        )
    return trainer, molecules
