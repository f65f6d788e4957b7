"""Label files and a small network for the tests of training. Labels are first Fock matrices: nobody converges them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from label_helpers import write_label_file
from pyscf import gto

from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.orbitals import ShellTable
from training.config import LossWeights, RunConfig, Schedule
from training.dataset import FockData, load_split
from training.labels import Theory
from training.loop import Trainer
from training.references import fill_cache

THEORY = Theory("b3lyp", "def2-svp")
TABLE = ShellTable.from_basis("def2-svp", (1, 8, 9))
MODEL = ModelConfig(reference=ReferenceSettings(steps=0), channels=8, layers=1, invariants=8, trace_hidden=8, radial=8)
WATER, FLUORIDE, PEROXIDE = (
    "O 0 0 0; H 0.1 0 0.96; H 0.93 0.1 -0.2",
    "H 0 0 0; F 0 0.1 0.93",
    "O 0 0 0; O 1.45 0 0.05; H -0.3 0.9 0.1; H 1.8 0.3 0.9",
)
# name: atoms, split; those that end in "-" have a charge of -1
MOLECULES = {
    "water": (WATER, "train"),
    "hydrogen fluoride": (FLUORIDE, "train"),
    "peroxide": (PEROXIDE, "train"),
    "bent water": ("O 0 0 0; H 0 0 0.97; H 0.8 0.1 0.5", "train"),
    "acid": ("O 0 0 0; F 1.43 0 0; H -0.2 0.93 0.1", "val"),
    "hydroxide-": ("O 0 0 0; H 0 0.2 0.95", "val"),
}


def write_labels(
    path: Path, molecules: dict[str, tuple[str, str]] = MOLECULES, theory: Theory = THEORY, shift: float = 0.0
) -> Path:
    """A label file of first Hartree-Fock matrices; `shift` (hartree) times the overlap is added."""
    mols = {
        name: gto.M(atom=atoms, basis=theory.basis, charge=-1 if name.endswith("-") else 0, verbose=0)
        for name, (atoms, _) in molecules.items()
    }
    focks = [m.RHF().get_fock(dm=m.RHF().get_init_guess()) + shift * m.intor("int1e_ovlp") for m in mols.values()]
    return write_label_file(path, mols, focks, [split for _, split in molecules.values()], theory.xc, theory.basis)


def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `labels.h5`, of MOLECULES, and `runs/references`: made once for all modules of tests."""
    folder = tmp_path_factory.getbasetemp() / "training"
    if not folder.exists():
        folder.mkdir()
        write_labels(folder / "labels.h5")
        fill_cache([str(folder / "labels.h5")], MODEL.reference, workers=1, root=folder / "runs" / "references")
    return folder


def run_config(**schedule: object) -> RunConfig:
    values = {"steps": 8, "batch_size": 2, "warmup": 3, **schedule}
    return RunConfig(MODEL, Schedule(**values), LossWeights())  # type: ignore[arg-type]


def load(path: Path, folder: Path, split: str = "train") -> list[FockData]:
    """Molecules of a label file, with the caches in a folder."""
    return load_split([str(path)], split, TABLE, MODEL, cache=folder / "runs" / "references")[0]


def trainer(config: RunConfig, data: list[FockData], folder: Path, resume: bool = False) -> Trainer:
    return Trainer(config, TABLE, THEORY, data, folder, "cpu", resume)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
