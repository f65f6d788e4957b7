"""Small models and rotations shared by the tests of the network."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from pyscf import gto
from scipy.spatial.transform import Rotation

from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.graph import MoleculeGraph, molecule_graph
from pyscf_tracegrad.model import FockModel
from pyscf_tracegrad.orbitals import ShellTable
from pyscf_tracegrad.reference import Reference, build_reference

TABLE = ShellTable.from_basis("def2-svp", (1, 6, 7, 8, 9))
SAP = ReferenceSettings("sap", steps=0)

# every element of the model, no symmetry
EVERY_ELEMENT = "C 0 0 0; O 0.1 0.2 1.2; N 1.2 0.1 -.7; F -1.2 .3 -.5; H 1.9 .8 -.3; H 1.5 -.7 -1.3"


def molecule(atoms: str = EVERY_ELEMENT, **keywords: object) -> gto.Mole:
    return gto.M(atom=atoms, basis="def2-svp", verbose=0, **keywords)


def random_model(config: ModelConfig, seed: int = 0, spread: float = 0.05) -> FockModel:
    """A model with random weights everywhere (decoders too) and random moments, so that every path is alive."""
    torch.manual_seed(seed)
    model = FockModel(config, TABLE.degrees, len(TABLE.elements))
    for parameter in model.parameters():
        if parameter.numel() and not parameter.abs().any():
            torch.nn.init.normal_(parameter, std=spread)
    for standardiser in [*model.inputs, model.output]:
        for buffer in standardiser.buffers():
            if buffer.is_floating_point():
                buffer.copy_(0.5 + torch.rand(buffer.shape))
    return model.eval()


@cache
def lively_model(config: ModelConfig, dtype: torch.dtype = torch.float64) -> FockModel:
    """A random model whose every part does a lot, gates above all. Made once: not to be changed."""
    model = random_model(config, spread=0.2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.5 * torch.randn(parameter.shape)
    return model.to(dtype)


def random_reference(mol: gto.Mole, responses: int, seed: int = 0) -> Reference:
    """Random symmetric matrices in the place of F_ref and of the responses; the overlap is not used by the network."""
    random = np.random.default_rng(seed).normal(size=(1 + responses, mol.nao, mol.nao))
    symmetric = random + random.transpose(0, 2, 1)
    return Reference(symmetric[0], symmetric[1:], np.eye(mol.nao))


def transformed(reference: Reference, u: NDArray[np.float64]) -> Reference:
    """U^T F U of the matrices of a reference; U may be a rotation of the AOs or a selection of them."""
    responses = np.array([u.T @ g @ u for g in reference.responses]).reshape(-1, u.shape[1], u.shape[1])
    return Reference(u.T @ reference.fock @ u, responses, u.T @ reference.overlap @ u)


def random_rotation(seed: int, inversion: bool) -> NDArray[np.float64]:
    return (-1.0 if inversion else 1.0) * Rotation.random(random_state=seed).as_matrix()


def ao_matrix(mol: gto.Mole, rotation: NDArray[np.float64]) -> NDArray[np.float64]:
    """U of F(rotated) = U^T F U, from PySCF; an inversion adds the parity (-1)^l of each AO."""
    proper = rotation if np.linalg.det(rotation) > 0 else -rotation
    matrix = mol.ao_rotation_matrix(proper)
    if np.linalg.det(rotation) < 0:
        degrees = [mol.bas_angular(i) for i in range(mol.nbas) for _ in range(mol.bas_nctr(i))]
        matrix = matrix * np.concatenate([np.full(2 * l + 1, (-1.0) ** l) for l in degrees])
    return np.asarray(matrix)


def rotated(mol: gto.Mole, rotation: NDArray[np.float64], shift: float = 0.0) -> gto.Mole:
    return mol.set_geom_(mol.atom_coords() @ rotation.T + shift, unit="Bohr", inplace=False)


def prepared(mol: gto.Mole, config: ModelConfig) -> tuple[MoleculeGraph, Reference]:
    return molecule_graph(mol, TABLE, config.cutoff), build_reference(mol, config.reference)
