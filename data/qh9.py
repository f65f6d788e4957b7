"""QH9's own SQLite databases as label files, with the official splits.

    python -m data.qh9 QH9Stable.db -o LABELS.h5 [--split id|ood|mol|geometry|all] [--part train val test] [--limit N]

QH9 (Yu et al., NeurIPS 2023; B3LYP/def2-SVP) is licensed CC BY-NC-SA 4.0: not for commercial use, and perhaps neither
is what was trained on it. The label file says so in its attribute `source`.

Table `data`, one row a geometry. Stable: id (position), N, Z (N,) int32, pos (N, 3) float64 angstrom, Ham (nao, nao)
float64 hartree, PySCF's AO order. Dynamic has pos in bohr, and also geo_id, ekin, epot, etot, time, converged.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pyscf import dft, lib
from pyscf.data.nist import BOHR
from scipy.linalg import eigh
from scipy.spatial.distance import pdist

from data import splits
from data.errors import MoleculeError, SetFileError
from data.hamiltonians import aos_of_element
from data.labelfile import Attributes, write_labels
from data.structure import Array, LabelRow, Structure
from training.command import command, make_parser

BASIS, GRID_LEVEL = "def2-svp", 3
FUNCTIONALS = ("b3lyp5", "b3lypg")  # PySCF's b3lyp was the first one before 2.3, it is the second one since
SPLITS = {"stable": ("id", "ood", "all"), "dynamic": ("mol", "geometry", "all")}  # the first one is the default
LICENCE = "CC BY-NC-SA 4.0, non-commercial: not for weights that are shipped"
_COLUMNS = {"id", "N", "Z", "pos", "Ham"}
_DYNAMIC_COLUMNS = {"geo_id", "epot", "converged"}
_CLOSEST_PAIR = (1.3, 3.1)  # bohr; from H-H to C-C, with room for thermal motion; angstrom are 1.89 off
_ATOM_ENERGY = {1: -0.5, 6: -37.8, 7: -54.6, 8: -75.1, 9: -99.7}  # hartree, B3LYP


class Entry(NamedTuple):
    """A row to be read: its rowid, molecule, QM9 index or -1, frame (0 in Stable) and part."""

    rowid: int
    parent: str
    gdb_index: int
    frame: int
    part: str


def open_database(path: Path) -> tuple[sqlite3.Connection, str]:
    """Connection, read-only, and kind ('stable' or 'dynamic') by the columns. Raises SetFileError."""
    if not path.is_file():
        raise SetFileError(f"{path}: there is no such file")
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
    try:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(data)")}
    except sqlite3.DatabaseError as error:
        connection.close()
        raise SetFileError(f"{path}: not an SQLite database ({error}); is the download complete?") from None
    kinds = {frozenset(): "stable", frozenset(_DYNAMIC_COLUMNS): "dynamic"}
    kind = kinds.get(frozenset(_DYNAMIC_COLUMNS & columns))
    if not columns >= _COLUMNS or kind is None:
        connection.close()
        raise SetFileError(f"{path}: not a database of QH9; its table `data` has the columns {sorted(columns)}")
    return connection, kind


def plan_stable(connection: sqlite3.Connection, split: str) -> list[Entry]:
    """What to read from QH9-Stable or a part of it. Raises SetFileError if the atoms are not QM9's, in its order."""
    n_atoms, gdb = splits.stable_n_atoms(), splits.stable_gdb_index()
    parts = {"id": splits.stable_id, "ood": lambda: splits.stable_ood(n_atoms)}
    names = parts[split]().names(splits.STABLE_SIZE) if split in parts else ["train"] * splits.STABLE_SIZE
    rows = connection.execute("SELECT rowid, id, N FROM data ORDER BY id").fetchall()
    first = 1 if rows and rows[-1][1] == splits.STABLE_SIZE else 0  # whether they count from 1
    entries = []
    for rowid, number, n in rows:
        k = number - first
        if not 0 <= k < splits.STABLE_SIZE or n_atoms[k] != n:
            raise SetFileError(f"row {number} has {n} atoms: not the order of QH9-Stable, so splits cannot be told")
        entries.append(Entry(rowid, f"{gdb[k]:06d}", int(gdb[k]), 0, names[k]))
    return entries


def plan_dynamic(connection: sqlite3.Connection, split: str, skipped: Counter[str]) -> list[Entry]:
    """What to read from QH9-Dynamic; rows that are not converged are counted in `skipped`.

    QM9 indices are known for the 300k set (2,998 molecules), which has its own order. Raises SetFileError.
    """
    rows = connection.execute("SELECT rowid, id, N, converged FROM data ORDER BY rowid").fetchall()
    groups = [list(group) for _, group in groupby(rows, key=lambda row: row[1])]
    if len({group[0][1] for group in groups}) != len(groups):
        raise SetFileError("the rows of a molecule do not follow each other, so the official splits cannot be told")
    gdb = splits.dynamic_gdb_index()
    known = len(groups) == len(gdb)
    n_atoms = splits.stable_n_atoms()[np.searchsorted(splits.stable_gdb_index(), gdb)]
    parts = {"mol": splits.dynamic_molecules(len(groups)).names(len(groups))}
    if split == "geometry":
        parts[split] = splits.dynamic_geometries([len(group) for group in groups]).names(len(rows))
    entries, start = [], 0
    for m, group in enumerate(groups):
        if known and group[0][2] != n_atoms[m]:
            raise SetFileError(f"molecule {m} has {group[0][2]} atoms: not the order of QH9-Dynamic-300k")
        index = int(gdb[m]) if known else -1
        parent = f"{index:06d}" if known else f"mol{m + 1:05d}"
        for k, (rowid, _, _, converged) in enumerate(group):
            if not converged:
                skipped["not converged"] += 1
                continue
            part = parts["mol"][m] if split == "mol" else parts[split][start + k] if split in parts else "train"
            entries.append(Entry(rowid, parent, index, k + 1, part))
        start += len(group)
    return entries


def _positions(blob: bytes, kind: str, where: str) -> Array:
    positions = np.frombuffer(blob).reshape(-1, 3) / (BOHR if kind == "stable" else 1.0)
    closest = float(pdist(positions).min(initial=np.inf))
    if len(positions) > 1 and not _CLOSEST_PAIR[0] < closest < _CLOSEST_PAIR[1]:
        unit = "angstrom" if kind == "stable" else "bohr"
        raise SetFileError(f"{where}: the closest atoms are {closest:.2f} bohr apart; its positions are not in {unit}")
    return positions


def _energy(epot: float | None, numbers: list[int]) -> float:
    """A total energy in hartree is that of the atoms and some per cent; anything else is another quantity: nan."""
    atoms = sum(_ATOM_ENERGY.get(z, np.nan) for z in numbers)
    return float(epot) if epot is not None and 0.97 < epot / atoms < 1.05 else float("nan")


def make_row(entry: Entry, kind: str, values: tuple) -> LabelRow:
    """Label of a row (N, Z, pos, Ham, epot). Raises MoleculeError if it is broken, SetFileError for a wrong unit."""
    n, numbers, positions, hamiltonian, epot = values
    name = f"{entry.parent}_md{entry.frame}" if entry.frame else entry.parent
    if len(numbers) != 4 * n or len(positions) != 24 * n:
        raise MoleculeError(f"{name}: {len(numbers)} bytes of atoms and {len(positions)} of positions for {n} atoms")
    atoms = np.frombuffer(numbers, dtype=np.int32).astype(np.int64)
    structure = Structure(name, atoms, _positions(positions, kind, name), 0, entry.parent, entry.frame, entry.gdb_index)
    nao = sum(aos_of_element(BASIS, z) for z in atoms.tolist())
    if len(hamiltonian) != 8 * nao**2:
        raise MoleculeError(f"{name}: a Hamiltonian of {len(hamiltonian)} bytes, but {nao} AOs take {8 * nao**2}")
    fock = np.frombuffer(hamiltonian).reshape(nao, nao)
    if not np.abs(fock - fock.T).max() < 1e-5:
        raise MoleculeError(f"{name}: the Hamiltonian is not symmetric, or NaN")
    packed = lib.pack_tril(fock).astype(np.float32)
    return LabelRow(structure, packed, _energy(epot, atoms.tolist()), float("nan"))


def read_rows(
    connection: sqlite3.Connection, kind: str, entries: list[Entry], skipped: Counter[str]
) -> Iterator[tuple[LabelRow, str]]:
    """(label, part) of each entry, one in memory at a time; broken rows are counted in `skipped` by their reason."""
    epot = "NULL" if kind == "stable" else "epot"
    query = f"SELECT N, Z, pos, Ham, {epot} FROM data WHERE rowid = ?"  # noqa: S608 - one of two constants
    for entry in entries:
        values = connection.execute(query, (entry.rowid,)).fetchone()
        try:
            row = make_row(entry, kind, values)
        except MoleculeError as error:
            skipped[str(error)] += 1
        else:
            yield row, entry.part


def find_functional(row: LabelRow) -> str:
    """Which B3LYP a label is of: the one whose Fock matrix of the label's density is the label. Raises SetFileError.

    It also proves AO order, unit and basis, since nothing else gives the same matrix.
    """
    mol = row.structure.molecule(BASIS)
    fock = lib.unpack_tril(row.fock.astype(np.float64))
    occupied = eigh(fock, mol.intor("int1e_ovlp"))[1][:, : mol.nelectron // 2]
    errors = {}
    for xc in FUNCTIONALS:
        mf = dft.RKS(mol, xc=xc)
        mf.grids.level = GRID_LEVEL
        errors[xc] = float(np.abs(mf.get_fock(dm=2 * occupied @ occupied.T) - fock).max())
    best = min(errors, key=errors.__getitem__)
    if errors[best] > 1e-4:
        raise SetFileError(
            f"{row.structure.name}: not a converged Fock matrix of B3LYP/{BASIS} in PySCF's AO order; one more "
            f"iteration changes it by {errors[best]:.1e} hartree"
        )
    return best


def convert(
    path: Path, out: Path, split: str = "", parts: Container[str] = ("train", "val", "test"), limit: int = 0
) -> tuple[int, Counter[str]]:
    """Write the label file `out` from a database of QH9: number of labels, and what was left out, by reason.

    split: 'id' or 'ood' of Stable, 'mol' or 'geometry' of Dynamic, 'all': everything trains; default id or mol.
    parts: which parts of it. limit: only so many rows; 0: all. Raises SetFileError.
    """
    skipped: Counter[str] = Counter()
    connection, kind = open_database(path)
    with closing(connection):
        split = split or SPLITS[kind][0]
        if split not in SPLITS[kind]:
            raise SetFileError(f"{path} is of the kind {kind}: its splits are {', '.join(SPLITS[kind])}, not {split}")
        try:
            entries = plan_stable(connection, split) if kind == "stable" else plan_dynamic(connection, split, skipped)
            entries = list(islice((e for e in entries if e.part in parts), limit or None))
            rows = read_rows(connection, kind, entries, skipped)
            first = next(rows, None)
            if first is None:
                raise SetFileError(f"{path}: no row to convert")
            source = f"QH9 {kind}, split {split} ({LICENCE})"
            conv = "PySCF's defaults, 1e-9 hartree"
            attributes = Attributes(find_functional(first[0]), BASIS, GRID_LEVEL, conv, source)
            return write_labels(out, attributes, chain([first], rows)), skipped
        except sqlite3.DatabaseError as error:
            raise SetFileError(f"{path}: broken database ({error}); is the download complete?") from None


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("data.qh9", __doc__)
    parser.add_argument("database", type=Path, help="QH9Stable.db, QH9Dynamic_100k.db or QH9Dynamic_300k.db")
    parser.add_argument("-o", "--out", type=Path, required=True, help="label file (HDF5) to write")
    parser.add_argument(
        "--split", choices=("id", "ood", "mol", "geometry", "all"), default="",
        help="official split; default: id for Stable, mol for Dynamic",
    )  # fmt: skip
    parts = ("train", "val", "test")
    parser.add_argument("--part", nargs="+", choices=parts, default=parts, help="parts of the split to convert")
    parser.add_argument("--limit", type=int, default=0, help="only so many rows; 0: all")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: convert one database."""
    a = options().parse_args(arguments)
    n, skipped = convert(a.database, a.out, a.split, a.part, a.limit)
    print(f"{a.out}: {n} labels; QH9 is {LICENCE}")
    for reason, count in skipped.most_common(10):
        print(f"left out: {count} x {reason}")


if __name__ == "__main__":
    sys.exit(main())
