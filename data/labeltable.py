"""Label files as one table: every column but the Fock matrices, which are streamed. Older files are read as well."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.structure import Structure
from training.labels import LabelError, LabelFile

_BLOCK = 1 << 22  # Fock elements in memory at once; 16 MB
_SUFFIX = re.compile(r"(_(eq|md|ionp|ionm|c)\d+)+$")


@dataclass(frozen=True)
class LabelTable:
    """Rows of label files of one level of theory, in their order; M rows.

    attributes: text of each file's attributes. name, parent, split: M strings. charge, gdb_index, frame, n_atoms: (M,).
    fock_size (M,): stored elements. energy, gradient_norm (M,): hartree, nan where unknown. atomic_numbers
    (sum n_atoms,), positions (sum n_atoms, 3) bohr: row k has offsets[k] to offsets[k+1].
    """

    paths: tuple[Path, ...]
    xc: str
    basis: str
    conv: str
    sources: tuple[str, ...]
    name: list[str]
    parent: list[str]
    split: list[str]
    charge: NDArray[np.int64]
    gdb_index: NDArray[np.int64]
    frame: NDArray[np.int64]
    n_atoms: NDArray[np.int64]
    fock_size: NDArray[np.int64]
    energy: NDArray[np.float64]
    gradient_norm: NDArray[np.float64]
    atomic_numbers: NDArray[np.int64]
    positions: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.name)

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(M+1,), where the atoms of each row start."""
        return np.concatenate([[0], np.cumsum(self.n_atoms)])

    def structures(self) -> Iterator[Structure | ValueError]:
        """Each row's structure, or the MoleculeError that says why it is none."""
        offsets = self.offsets
        for k, name in enumerate(self.name):
            atoms = slice(offsets[k], offsets[k + 1])
            facts = (int(self.charge[k]), self.parent[k], int(self.frame[k]), int(self.gdb_index[k]))
            try:
                yield Structure(name, self.atomic_numbers[atoms], self.positions[atoms], *facts)
            except ValueError as error:
                yield error

    def composition(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(elements (n,) ascending, number of atoms of each in each row (M, n))."""
        elements, which = np.unique(self.atomic_numbers, return_inverse=True)
        counts = np.zeros((len(self), len(elements)), dtype=np.int64)
        np.add.at(counts, (np.repeat(np.arange(len(self)), self.n_atoms), which), 1)
        return elements, counts


def read_table(paths: Sequence[Path]) -> LabelTable:
    """Read the columns of label files. Raises LabelError for a broken file, or files of several levels of theory.

    Where a file has no `parent`, it is the name without its frame, ion and conformer (`_eq0`, `_md1`, `_ionp1`, `_c0`).
    """
    labels = [LabelFile(path) for path in paths]
    theories = {file.theory for file in labels}
    if len(theories) != 1:
        raise LabelError(f"files of several levels of theory: {sorted(map(str, theories))}; inspect each by itself")
    if not sum(map(len, labels)):
        raise LabelError(f"{', '.join(map(str, paths))}: holds no labels")
    by_file = [_columns(file) for file in labels]
    columns = {key: np.concatenate([c[key] for c in by_file]) for key in by_file[0]}
    attributes = [tuple(file.attribute(key) or "not stated" for key in ("conv", "source")) for file in labels]
    return LabelTable(
        paths=tuple(paths),
        xc=labels[0].theory.xc,
        basis=labels[0].theory.basis,
        conv=attributes[0][0],
        sources=tuple(sorted({source for _, source in attributes})),
        name=columns["name"].tolist(),
        parent=columns["parent"].tolist(),
        split=columns["split"].tolist(),
        charge=columns["charge"].astype(np.int64),
        gdb_index=columns["gdb_index"].astype(np.int64),
        frame=columns["frame"].astype(np.int64),
        n_atoms=columns["n_atoms"],
        fock_size=columns["fock_size"],
        energy=columns["energy"].astype(np.float64),
        gradient_norm=columns["gradient_norm"].astype(np.float64),
        atomic_numbers=columns["atomic_numbers"].astype(np.int64),
        positions=columns["positions"].astype(np.float64),
    )


def _columns(labels: LabelFile) -> dict[str, NDArray]:
    defaults = {
        "gdb_index": -1,
        "frame": 0,
        "gradient_norm": np.nan,
        "parent": [_SUFFIX.sub("", name) for name in labels.names],
        "energy": np.nan,
        "atomic_numbers": 0,
        "positions": 0,
    }
    columns: dict[str, NDArray] = {}
    for key, default in defaults.items():
        found = labels.column(key)
        columns[key] = np.full(len(labels), default, dtype=object) if found is None else found
    columns |= {"n_atoms": np.diff(labels.atom_offsets), "fock_size": np.diff(labels.fock_offsets)}
    columns |= {"name": np.array(labels.names, dtype=object), "split": np.array(labels.splits, dtype=object)}
    return columns | {"charge": np.asarray(labels.charges)}


def not_finite(table: LabelTable) -> list[int]:
    """Rows whose Fock matrix has NaN or infinite elements; a few MB of matrices in memory at once."""
    found: list[int] = []
    first = 0
    for path in table.paths:
        labels = LabelFile(path)
        for start in range(0, int(labels.fock_offsets[-1]), _BLOCK):
            bad = np.flatnonzero(~np.isfinite(labels.fock(start, start + _BLOCK))) + start
            found += (first + np.unique(np.searchsorted(labels.fock_offsets, bad, side="right") - 1)).tolist()
        first += len(labels)
    return sorted(set(found))
