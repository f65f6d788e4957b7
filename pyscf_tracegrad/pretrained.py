"""A trained model applied to a molecule: reference, network, Fock matrix. torch is loaded here, not before."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pyscf import gto

from pyscf_tracegrad import models
from pyscf_tracegrad.blocks import gather_blocks, scatter_blocks
from pyscf_tracegrad.cheapfock import CheapFock
from pyscf_tracegrad.checkpoint import Checkpoint, load_checkpoint
from pyscf_tracegrad.graph import MoleculeGraph, molecule_graph
from pyscf_tracegrad.model import FockModel, ModelInput
from pyscf_tracegrad.reference import Reference, build_reference
from pyscf_tracegrad.threads import network_threads

Array = NDArray[np.float64]
Route = Literal["network", "reference"]

SHIPPED = models.SHIPPED


@dataclass(frozen=True)
class Prediction:
    """A predicted Fock matrix F = F_ref + dF in the model's own basis and functional.

    mol: molecule in the model's basis. reference: F_ref with its overlap and operator. correction (nao, nao): dF,
    hartree, PySCF AO order, zero where the route is `reference`, F_ref alone. traces: mismatch of the network's trace
    prediction, see `gate.Signals`. seconds: wall time of set-up, F0, G and network.
    """

    mol: gto.Mole
    reference: Reference
    correction: Array
    route: Route
    traces: float
    seconds: dict[str, float]

    def __post_init__(self) -> None:
        if self.correction.shape != self.reference.fock.shape:
            raise ValueError(f"dF {self.correction.shape} and F_ref {self.reference.fock.shape} do not match")

    @property
    def fock(self) -> Array:
        """F_ref + dF (nao, nao), hartree, PySCF AO order."""
        return self.reference.fock + self.correction

    @property
    def overlap(self) -> Array:
        """Overlap (nao, nao) of the same AOs."""
        return self.reference.overlap


def network_input(graph: MoleculeGraph, reference: Reference, dtype: torch.dtype) -> ModelInput:
    """What the model takes, from a graph and its reference."""
    slots, edges = torch.as_tensor(graph.ao.ao_slots), torch.as_tensor(graph.edge_index)
    atoms = torch.arange(len(slots))
    matrices = torch.as_tensor(np.stack([reference.fock, *reference.responses])).to(dtype)
    return ModelInput(
        element=torch.as_tensor(graph.ao.element_index),
        charge=torch.full((len(slots),), float(graph.charge), dtype=dtype),
        positions=torch.as_tensor(graph.positions),
        edge_index=edges,
        site=gather_blocks(matrices, slots, atoms, atoms),
        pair=gather_blocks(matrices, slots, edges[0], edges[1]),
    )


def correction(model: FockModel, graph: MoleculeGraph, reference: Reference) -> Array:
    """Network's dF (nao, nao), hartree, PySCF AO order, float64."""
    return _apply(model, graph, reference)[0]


def _apply(model: FockModel, graph: MoleculeGraph, reference: Reference) -> tuple[Array, float]:
    """dF and the trace mismatch."""
    with network_threads(len(graph.positions)), torch.inference_mode():
        inputs = network_input(graph, reference, model.dtype)
        blocks = model(inputs)
        slots = torch.as_tensor(graph.ao.ao_slots)
        matrix = scatter_blocks(blocks.site.double(), blocks.pair.double(), inputs.edge_index, slots, graph.ao.nao)
        return np.asarray(matrix.numpy()), model.trace_mismatch(blocks)


@dataclass(frozen=True)
class PretrainedModel:
    """A checkpoint ready to predict."""

    checkpoint: Checkpoint

    def graph(self, mol: gto.Mole) -> MoleculeGraph:
        """Graph of a molecule. Raises UnsupportedBasis for elements or shells that the model does not know."""
        return molecule_graph(mol, self.checkpoint.shells, self.checkpoint.model.config.cutoff)

    def predict(self, mol: gto.Mole, cheap: CheapFock | None = None) -> Prediction:
        """Fock matrix of a closed-shell molecule, at the level of theory of the labels.

        cheap: operator of that level of theory, for those who have one; a new one if not given. Charged molecules are
        served by the network or by the reference alone, whatever the checkpoint says is better.
        Raises UnsupportedBasis for elements or shells that the model does not know.
        """
        model = self.checkpoint.model
        graph = self.graph(mol)
        reference = build_reference(mol, model.config.reference, cheap)
        seconds = dict(reference.seconds)
        if mol.charge != 0 and not self.checkpoint.serve_ions:
            return Prediction(
                mol, reference, np.zeros_like(reference.fock), "reference", 0.0, seconds | {"network": 0.0}
            )
        start = time.perf_counter()
        found, traces = _apply(model, graph, reference)
        seconds["network"] = time.perf_counter() - start
        return Prediction(mol, reference, found, "network", traces, seconds)


def load_model(path: str | Path | None = None) -> PretrainedModel:
    """Load a model once; `None` is the shipped one.

    Raises CheckpointError for a file that is missing, damaged, of another version, or no model.
    """
    file = SHIPPED if path is None else Path(path)
    changed = file.stat().st_mtime_ns if file.exists() else 0
    return _load(file.resolve(), changed)


@lru_cache(maxsize=4)
def _load(path: Path, changed: int) -> PretrainedModel:  # noqa: ARG001  (changed: a rewritten file is another one)
    with network_threads(0):
        return PretrainedModel(load_checkpoint(path))
