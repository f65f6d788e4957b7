"""Molecules to time a network with, of any size and without label files: alkanes with random matrices."""

from __future__ import annotations

import numpy as np
from pyscf import gto, lib

from pyscf_tracegrad.config import ModelConfig
from pyscf_tracegrad.orbitals import ShellTable
from pyscf_tracegrad.reference import Reference
from training.dataset import FockData, make_data
from training.labels import Label

BASIS = "def2-svp"


def alkane(carbons: int, seed: int) -> gto.Mole:
    """C_n H_2n+2: a zigzag chain, every atom displaced by about 0.1 bohr."""
    atoms: list[tuple[int, tuple[float, float, float]]] = []
    for k in range(carbons):
        side = 1.0 - 2.0 * (k % 2)
        x, y = 2.4 * k, 0.8 * side
        atoms += [(6, (x, y, 0.0)), (1, (x, y + 1.2 * side, -1.7)), (1, (x, y + 1.2 * side, 1.7))]
        atoms += [(1, (x + step, y - 1.2 * side, 0.0)) for step, end in ((-1.7, 0), (1.7, carbons - 1)) if k == end]
    mol = gto.M(atom=atoms, unit="Bohr", basis=BASIS, verbose=0)
    shift = np.random.default_rng(seed).normal(scale=0.1, size=(mol.natm, 3))
    return mol.set_geom_(mol.atom_coords() + shift, unit="Bohr")


def synthetic_data(config: ModelConfig, table: ShellTable, carbons: int, count: int) -> list[FockData]:
    """Molecules as the training takes them: random label, reference and responses (hartree), the overlap is real."""
    found = []
    for seed in range(count):
        mol, generator = alkane(carbons, seed), np.random.default_rng(seed)
        overlap = np.asarray(mol.intor("int1e_ovlp"))
        matrices = generator.normal(scale=0.05, size=(2 + config.reference.n_responses, *overlap.shape))
        matrices += matrices.swapaxes(1, 2)
        fock, error, *responses = matrices
        packed = lib.pack_tril(fock).astype(np.float32)
        label = Label(f"C{carbons} {seed}", mol.atom_charges(), mol.atom_coords(), 0, packed, 0.0, -1, "train")
        reference = Reference(fock + 0.01 * error, np.reshape(responses, (-1, *overlap.shape)), overlap)
        found.append(make_data(label, reference, table, config, BASIS))
    return found
