"""QM9 (Ramakrishnan et al., Scientific Data 2014, 1, 140022) from the data files of the package `qm9pack`.

Its CSV files hold the 130,831 molecules whose SMILES survived the relaxation, in the order of their GDB indices; the
3,054 others are not there. They are read directly: the package's own code needs a setuptools of the past.
"""

from __future__ import annotations

import ast
import csv
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyscf.data import elements, nist

from data.errors import SetFileError
from data.structure import Seed, Structure

PARTS = tuple(f"qm9_part{k}.csv" for k in (1, 2, 3))
LAST = 133885  # GDB index of the last molecule

_HEAD = re.compile(rb'"dsgdb9nsd_\d{6}\.xyz",(\d+),"[^"]*","[^"]*",(\d+),')  # file, index, SMILES, InChI, atoms
_COLUMNS = ("Index", "SMILES", "Elements", "XYZ_Ang")
_AFTER_INDEX = 8192  # bytes that surely hold the first line of a file and the head of the second
_PART = np.dtype([("index", np.int32), ("n_atoms", np.int16), ("part", np.int8), ("offset", np.int64)])


def find_files() -> tuple[Path, ...]:
    """The three data files of the installed `qm9pack`. Raises SetFileError where it is not installed."""
    spec = importlib.util.find_spec("qm9pack")  # finds it without importing it
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    files = tuple(Path(folder) / "data" / part for folder in folders[:1] for part in PARTS)
    if not files or not all(file.is_file() for file in files):
        raise SetFileError("QM9 is not installed; install it with pip install 'pyscf_tracegrad[data]' (qm9pack)")
    return files


@dataclass(frozen=True)
class Table:
    """Where the molecules of QM9 stand: GDB index, number of atoms, part and offset in it of each line, in order."""

    files: tuple[Path, ...]
    lines: NDArray[np.void]

    def select(self, indices: tuple[int, ...]) -> Table:
        """Only these, in this order. Raises SetFileError for indices that QM9 does not have, or doubled ones."""
        if len(set(indices)) < len(indices):
            double = next(i for i in indices if indices.count(i) > 1)
            raise SetFileError(f"source.indices names {double} twice; remove one")
        rows = np.searchsorted(self.lines["index"], indices)
        for i, row in zip(indices, rows.tolist(), strict=True):
            if not 1 <= i <= LAST:
                raise SetFileError(f"source.indices: QM9 has indices 1 to {LAST}, not {i}")
            if row == len(self.lines) or self.lines["index"][row] != i:
                raise SetFileError(
                    f"source.indices: {i} is one of the 3,054 molecules of QM9 that did not keep their bonds when they "
                    "were relaxed, and left out of it; remove it"
                )
        return Table(self.files, self.lines[rows])

    def seeds(self) -> list[Seed]:
        """All of them, named by their indices in six digits; positions are B3LYP's of QM9, in bohr."""
        found = {}
        for part, path in enumerate(self.files):
            lines = self.lines[self.lines["part"] == part]
            if not len(lines):
                continue
            with path.open("rb") as file:
                columns = next(csv.reader([file.readline().decode()]))
                for line in np.sort(lines, order="offset"):
                    file.seek(int(line["offset"]))
                    row = next(csv.reader([file.readline().decode()]))
                    found[int(line["index"])] = _seed(dict(zip(columns, row, strict=True)))
        return [found[int(i)] for i in self.lines["index"]]


def scan(indices: tuple[int, ...] = ()) -> Table:
    """Where molecules stand: all of QM9 (1 s), or at least those of `indices`, without reading the rest.

    Raises SetFileError where the files are not those of qm9pack.
    """
    files = find_files()
    starts = [_first_index(path) for path in files] + [LAST + 1]
    lines: list[tuple[int, int, int, int]] = []
    for part, path in enumerate(files):
        wanted = [i for i in indices if starts[part] <= i < starts[part + 1]]
        if wanted or not indices:
            lines += _scan(path, part, max(wanted, default=LAST))
    return Table(files, np.array(lines, dtype=_PART))


def _scan(path: Path, part: int, last: int) -> list[tuple[int, int, int, int]]:
    lines = []
    with path.open("rb") as file:
        offset = len(file.readline())
        for line in file:
            head = _HEAD.match(line)
            if head is None:
                raise SetFileError(f"{path}: not the file of qm9pack 1.0.3, by the line at byte {offset}")
            index = int(head[1])
            lines.append((index, int(head[2]), part, offset))
            if index >= last:
                break
            offset += len(line)
    return lines


def _first_index(path: Path) -> int:
    with path.open("rb") as file:
        columns = file.readline(_AFTER_INDEX).decode(errors="replace").strip().split(",")
        head = _HEAD.match(file.readline(_AFTER_INDEX))
    if head is None or not set(_COLUMNS) <= set(columns):
        raise SetFileError(f"{path}: not the file of qm9pack 1.0.3, by its first lines")
    return int(head[1])


def _seed(row: dict[str, str]) -> Seed:
    index = int(row["Index"])
    structure = Structure(
        name=f"{index:06d}",
        atomic_numbers=np.array([elements.charge(symbol) for symbol in ast.literal_eval(row["Elements"])]),
        positions=np.array(ast.literal_eval(row["XYZ_Ang"])) / nist.BOHR,  # not JSON: five of them have numbers as `0.`
        gdb_index=index,
        smiles=row["SMILES"],
    )
    return Seed(structure.name, structure=structure)
