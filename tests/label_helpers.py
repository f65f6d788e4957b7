"""Small label files made by plain PySCF runs."""

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


def write_labels(path: Path, molecules: Mapping[str, str], splits: Sequence[str]) -> Path:
    """A label file of molecules by name (PySCF's `atom` strings, angstrom), B3LYP/def2-SVP; one split for each."""
    numbers, positions, focks, energies = [], [], [], []
    for atoms in molecules.values():
        mol = gto.M(atom=atoms, basis="def2-svp", verbose=0)
        mf = dft.RKS(mol, xc="b3lyp")
        mf.conv_tol_grad = 1e-6
        energies.append(mf.kernel())
        focks.append(lib.pack_tril(mf.get_fock()).astype(np.float32))
        numbers.append(mol.atom_charges())
        positions.append(mol.atom_coords())
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "fock-labels", "version": 1, "xc": "b3lyp", "basis": "def2-svp"})
        file["atomic_numbers"] = np.concatenate(numbers).astype(np.uint8)
        file["positions"] = np.concatenate(positions)
        file["atom_offsets"] = np.cumsum([0] + [len(n) for n in numbers])
        file["fock"] = np.concatenate(focks)
        file["fock_offsets"] = np.cumsum([0] + [len(f) for f in focks])
        file["energy"] = np.array(energies)
        file["cycles_minao"] = np.full(len(focks), -1, dtype=np.int16)
        file["name"] = list(molecules)
        file["split"] = list(splits)
    return path
