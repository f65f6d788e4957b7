"""The table of contents of a guess: one line per stage.

molecule -> domain check -> reference (cheap operator) -> network -> Fock matrix -> orbitals -> density
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pyscf import gto
from pyscf.lib import logger
from pyscf.scf import hf

from pyscf_tracegrad.density import aufbau, diagonalise, make_density
from pyscf_tracegrad.domain import check_density, check_molecule, check_overlap, check_scf
from pyscf_tracegrad.errors import BadMolecule, TracegradError

if TYPE_CHECKING:
    from pyscf_tracegrad.pretrained import Prediction, PretrainedModel, Route

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Guess:
    """A density and how it came about.

    dm (nao, nao): tagged with `mo_coeff` and `mo_occ`, PySCF AO order. route: `network`, or `reference` where F_ref
    alone serves. gap: predicted HOMO-LUMO gap, hartree. seconds: wall time of set-up, F0, G, network and
    diagonalisation.
    """

    dm: Any
    route: Route
    gap: float
    seconds: dict[str, float]


def make_guess(mol: gto.Mole, model: PretrainedModel | None = None) -> Guess:
    """Guess of a closed-shell molecule, with its times.

    model: from `load_model`; the shipped one if not given. Raises OutsideDomain for what is not covered,
    CheckpointError for weights that cannot be used.
    """
    prediction = _predict(mol, model)
    start = time.perf_counter()
    orbitals = diagonalise(prediction.fock, prediction.overlap)
    occupations = aufbau(len(orbitals.energies), mol.nelectron)
    dm = make_density(orbitals, occupations)
    check_density(dm, mol.nao)
    seconds = prediction.seconds | {"diagonalisation": time.perf_counter() - start}
    return Guess(dm, prediction.route, _gap(orbitals.energies, mol.nelectron // 2), seconds)


def _gap(energies: Array, n_occupied: int) -> float:
    return float(energies[n_occupied] - energies[n_occupied - 1]) if n_occupied < len(energies) else float("inf")


def _predict(mol: gto.Mole, model: PretrainedModel | None) -> Prediction:
    """Check the molecule, then ask the model, the shipped one if None."""
    check_molecule(mol)
    if model is None:
        from pyscf_tracegrad.pretrained import load_model  # needs torch

        model = load_model()
    return model.predict(mol)


def predict_fock(mol: gto.Mole, model: PretrainedModel | None = None) -> Array:
    """Predicted converged Fock matrix (nao, nao), hartree, PySCF AO order, at the level of theory of the labels.

    model: from `load_model`; the shipped one if not given. Raises OutsideDomain for what is not covered.
    """
    return _predict(mol, model).fock


def tracegrad_guess(mol_or_mf: Any, model: PretrainedModel | None = None, strict: bool = False) -> Any:
    """Starting density of an SCF: `mf.kernel(dm0=tracegrad_guess(mol))`.

    Parameters
    ----------
    mol_or_mf : gto.Mole or scf.hf.SCF
        A molecule, or an SCF object, whose kind is checked then as well.
    model : PretrainedModel, optional
        From `load_model`; the shipped one if not given.
    strict : bool
        Raise OutsideDomain for what is not covered. Otherwise warn with the reason through `pyscf.lib.logger` and
        return the minao density, in the shape that the SCF object needs.

    Returns
    -------
    (nao, nao) array, PySCF AO order, tagged with `mo_coeff` (nao, nmo) and `mo_occ` (nmo,).
    """
    if not isinstance(mol_or_mf, (gto.MoleBase, hf.SCF)):
        raise TypeError(f"tracegrad_guess takes a Mole or an SCF object, not {type(mol_or_mf).__name__}")
    mf = None if isinstance(mol_or_mf, gto.MoleBase) else mol_or_mf
    mol = mol_or_mf if mf is None else mf.mol
    try:
        return make_guess(mol, model).dm if mf is None else guess_for_scf(mf, mol, model)
    except TracegradError as error:
        no_fallback = isinstance(error, BadMolecule) or (mf is None and mol.natm == 0)  # minao needs atoms
        if strict or no_fallback:
            raise
        warn_fallback(mol_or_mf, error)
        return (hf.RHF(mol) if mf is None else mf).get_init_guess(mol, "minao")


def guess_for_scf(mf: Any, mol: gto.Mole, model: PretrainedModel | None = None) -> Any:
    """Density (nao, nao), tagged, for an SCF object, after checking its kind; `mol` is the one to start from.

    Raises OutsideDomain for what is not covered, CheckpointError for weights that cannot be used.
    """
    check_scf(mf)
    check_molecule(mol)
    check_overlap(mf, mol)
    guess = make_guess(mol, model)
    logger.info(mf, "Initial guess from tracegrad (%s).", guess.route)
    return guess.dm


def warn_fallback(mol_or_mf: Any, error: TracegradError) -> None:
    """Say through PySCF's logger why minao is used instead."""
    logger.warn(mol_or_mf, "tracegrad guess: %s. Using the minao guess instead.", error)
