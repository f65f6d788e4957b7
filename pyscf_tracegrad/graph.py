"""Molecule -> graph: elements, positions, pairs, and where each AO stands in the blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyscf import gto

from pyscf_tracegrad.orbitals import AOLayout, ShellTable, layout


@dataclass(frozen=True)
class MoleculeGraph:
    """One molecule as the network sees it.

    ao: layout of the AOs. positions (n_atoms, 3): bohr. charge: net charge.
    edge_index (2, n_edges): atoms i < j of every pair within the cutoff of the model.
    """

    ao: AOLayout
    positions: NDArray[np.float64]
    charge: int
    edge_index: NDArray[np.int64]

    def __post_init__(self) -> None:
        n_atoms = len(self.ao.element_index)
        if self.positions.shape != (n_atoms, 3) or not np.isfinite(self.positions).all():
            raise ValueError(f"{n_atoms} atoms need finite positions ({n_atoms}, 3), not {self.positions.shape}")
        if (self.edge_index[0] >= self.edge_index[1]).any():
            raise ValueError("edges must have i < j")


def molecule_graph(mol: gto.Mole, table: ShellTable, cutoff: float) -> MoleculeGraph:
    """Graph of a molecule; `cutoff` in bohr. Raises UnsupportedBasis for elements or shells out of the table."""
    positions = np.asarray(mol.atom_coords(), dtype=np.float64)
    i, j = np.triu_indices(mol.natm, 1)
    near = np.linalg.norm(positions[j] - positions[i], axis=1) < cutoff
    return MoleculeGraph(layout(mol, table), positions, int(mol.charge), np.stack([i[near], j[near]]))
