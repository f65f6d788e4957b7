"""The recipe of a set: which structures it has, and their energies, by which labels made again can be checked.

    python -m data.manifest LABELS.h5... -o SET.csv          # write it
    python -m data.manifest LABELS.h5... --check SET.csv     # compare with it; exit status 1 if anything differs

Fock matrices and geometries are not in it. `data/manifests/shipped.csv` is that of the shipped model.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import SetFileError
from data.labeltable import LabelTable, read_table
from training.command import command, make_parser
from training.rows import append_rows, read_rows

TOLERANCE = 1e-6  # hartree
_FACTS = ("gdb_index", "frame", "charge", "split", "n_atoms")


@dataclass(frozen=True)
class Line:
    """One structure. energy: hartree, nan where unknown."""

    name: str
    gdb_index: int
    frame: int
    charge: int
    split: str
    n_atoms: int
    energy: float


def manifest(table: LabelTable) -> list[Line]:
    """Lines of all rows of label files, in the order of their names."""
    columns = (table.gdb_index, table.frame, table.charge, table.split, table.n_atoms, table.energy)
    lines = []
    for name, gdb_index, frame, charge, split, n_atoms, energy in zip(table.name, *columns, strict=True):
        counts = (int(gdb_index), int(frame), int(charge), split, int(n_atoms))
        lines.append(Line(name, *counts, round(float(energy), 8)))
    return sorted(lines, key=lambda line: line.name)


def read_manifest(path: Path) -> list[Line]:
    """Lines of a file. Raises SetFileError if it is none."""
    try:
        lines = read_rows(path, Line)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetFileError(f"{path}: not a manifest ({error})") from None
    if not lines:
        raise SetFileError(f"{path}: there is no such file, or it is empty")
    return lines


def compare(found: Sequence[Line], expected: Sequence[Line], tolerance: float = TOLERANCE) -> list[str]:
    """What differs, one sentence each: structures that only one has, other facts, energies by more than `tolerance`."""
    by_name = {line.name: line for line in found}
    differences = []
    for line in expected:
        other = by_name.pop(line.name, None)
        if other is None:
            differences.append(f"{line.name} is missing")
            continue
        differences += [
            f"{line.name}: {fact} is {getattr(other, fact)}, not {getattr(line, fact)}"
            for fact in _FACTS
            if getattr(other, fact) != getattr(line, fact)
        ]
        known = not (math.isnan(other.energy) and math.isnan(line.energy))
        if known and not abs(other.energy - line.energy) <= tolerance:
            differences.append(f"{line.name}: energy {other.energy:.8f}, not {line.energy:.8f} hartree")
    return differences + [f"{name} is not in the manifest" for name in by_name]


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("data.manifest", __doc__)
    parser.add_argument("labels", nargs="+", type=Path, help="label files (HDF5)")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("-o", "--out", type=Path, help="CSV file to write")
    task.add_argument("--check", type=Path, help="CSV file to compare with; exit status 1 if anything differs")
    parser.add_argument("--tolerance", type=float, default=TOLERANCE, help="of energies, hartree")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: write a manifest, or check label files against one."""
    a = options().parse_args(arguments)
    if a.out and a.out.exists() and any(path.exists() and a.out.samefile(path) for path in a.labels):
        raise SetFileError(f"{a.out}: is one of the label files, which -o would overwrite; give it another name")
    lines = manifest(read_table(a.labels))
    if a.check:
        differences = compare(lines, read_manifest(a.check), a.tolerance)
        print("\n".join([*differences, f"{len(lines)} structures, {len(differences)} differences"]))
        return int(bool(differences))
    a.out.unlink(missing_ok=True)
    append_rows(a.out, lines)
    print(f"{a.out}: {len(lines)} structures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
