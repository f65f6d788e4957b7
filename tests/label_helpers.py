"""Small label files, written by the description of the format, with labels of plain PySCF runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np
from pyscf import dft, gto, lib

SMALL = {
    "water": "O 0 0 0; H 0.1 0 0.96; H 0.93 0.1 -0.2",
    "hydrogen fluoride": "H 0 0 0; F 0 0.1 0.93",
    "water, bent": "O 0 0 0; H 0.2 0 0.95; H 0.9 0.2 -0.3",
    "hydrogen fluoride, long": "H 0 0 0; F 0 0.1 1.0",
}


def write_label_file(
    path: Path, mols: Mapping[str, gto.Mole], focks: Sequence[np.ndarray], splits: Sequence[str], xc: str, basis: str
) -> Path:
    """A label file of molecules by name and their Fock matrices (nao, nao), hartree, by the format's description."""
    packed = [lib.pack_tril(fock).astype(np.float32) for fock in focks]
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "fock-labels", "version": 1, "xc": xc, "basis": basis})
        file["atomic_numbers"] = np.concatenate([m.atom_charges() for m in mols.values()]).astype(np.uint8)
        file["positions"] = np.concatenate([m.atom_coords() for m in mols.values()])
        file["atom_offsets"] = np.cumsum([0] + [m.natm for m in mols.values()])
        file["fock"] = np.concatenate(packed)
        file["fock_offsets"] = np.cumsum([0] + [len(f) for f in packed])
        file["energy"] = np.zeros(len(mols))
        file["cycles_minao"] = np.full(len(mols), -1, dtype=np.int16)
        file["charge"] = np.array([m.charge for m in mols.values()], dtype=np.int8)
        file["name"] = list(mols)
        file["split"] = list(splits)
    return path


def write_labels(path: Path, molecules: Mapping[str, str], splits: Sequence[str]) -> Path:
    """A label file of molecules by name (PySCF's `atom` strings, angstrom), B3LYP/def2-SVP; one split for each."""
    mols = {name: gto.M(atom=atoms, basis="def2-svp", verbose=0) for name, atoms in molecules.items()}
    focks, energies = [], []
    for mol in mols.values():
        mf = dft.RKS(mol, xc="b3lyp")
        mf.conv_tol_grad = 1e-6
        energies.append(mf.kernel())
        focks.append(mf.get_fock())
    write_label_file(path, mols, focks, splits, "b3lyp", "def2-svp")
    with h5py.File(path, "a") as file:
        file["energy"][:] = energies
    return path
