"""What is in label files, and whether it can be trusted: a summary, checks, and a picture.

    python -m data.inspect LABELS.h5... [-o FOLDER] [--gradient 1e-6] [--no-inchi]

Prints Markdown; with -o, also writes `summary.md` and `summary.png`. The exit status is 1 if a check finds something,
2 if a file or the folder cannot be used. Several files are taken as one set. Fock matrices are streamed. A set whose
frames are split at random fails the checks for molecules in two splits: its errors are those of known molecules.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pyscf.data.elements import ELEMENTS
from pyscf.lib.exceptions import BasisNotFoundError
from scipy.spatial.distance import pdist

from data.errors import SetFileError
from data.hamiltonians import aos_of_element
from data.labeltable import LabelTable, not_finite, read_table
from data.molecules import divided, known_names
from data.structure import Structure
from training.command import command, make_parser
from training.labels import LabelError

SAME = 1e-3  # bohr; two geometries whose sorted distances differ by less are the same
ENERGY_SIGMAS, ENERGY_LEAST = 12.0, 0.3  # an outlier is off by so many robust deviations, and by so many hartree
SPLITS = ("train", "val", "test")
_SHOWN = 8  # offenders in the summary


@dataclass(frozen=True)
class Check:
    """One check: what it asks, what it found wrong (empty: nothing), and what else to know."""

    question: str
    offenders: list[str]
    note: str = ""

    def line(self) -> str:
        """As a line of a Markdown list."""
        note = f" ({self.note})" if self.note else ""
        if not self.offenders:
            return f"* OK: {self.question}{note}"
        more = f", and {len(self.offenders) - _SHOWN} more" if len(self.offenders) > _SHOWN else ""
        return f"* **FAILED**: {self.question}{note}: {'; '.join(self.offenders[:_SHOWN])}{more}"


def aos(table: LabelTable) -> NDArray[np.int64]:
    """Number of AOs (M,) that the basis gives each row."""
    elements, counts = table.composition()
    return counts @ np.array([aos_of_element(table.basis, int(z)) for z in elements], dtype=np.int64)


def stated_gradient(conv: str) -> float | None:
    """The threshold in a file's attribute `conv`, hartree; None where it names none."""
    found = re.search(r"gradient norm < *([0-9.]+e?-?[0-9]*)", conv)
    return float(found[1]) if found else None


def energy_residuals(table: LabelTable) -> NDArray[np.float64]:
    """Energy (M,) less a least-squares fit by elements, cations and anions, hartree; nan where it cannot be told.

    Fitted again without its outliers, so that one wrong energy does not bend the line.
    """
    counts = table.composition()[1].astype(np.float64)
    design = np.column_stack([counts, table.charge > 0, table.charge < 0, np.ones(len(table))])
    used = np.isfinite(table.energy)
    residuals = np.full(len(table), np.nan)
    for _ in range(5):
        if used.sum() < 3 * np.linalg.matrix_rank(design):
            return np.full(len(table), np.nan)
        fit = np.linalg.lstsq(design[used], table.energy[used], rcond=None)[0]
        residuals = table.energy - design @ fit
        used = np.isfinite(residuals) & (np.abs(residuals) <= max(ENERGY_LEAST, 4 * _deviation(residuals)))
    return residuals


def _deviation(values: NDArray[np.float64]) -> float:
    return 1.4826 * float(np.nanmedian(np.abs(values - np.nanmedian(values))))


def same_geometries(table: LabelTable) -> list[tuple[int, int]]:
    """Pairs of rows, the earlier one first and in order, of the same atoms and charge whose sorted distances agree to
    SAME; mirror images are among them.
    """
    offsets = table.offsets
    groups: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for k in range(len(table)):
        numbers = np.sort(table.atomic_numbers[offsets[k] : offsets[k + 1]])
        groups[int(table.charge[k]), numbers.tobytes()].append(k)
    found = []
    for rows in groups.values():
        distances = np.array([np.sort(pdist(table.positions[offsets[k] : offsets[k + 1]])) for k in rows])
        total = distances.sum(axis=1)
        order = np.argsort(total)
        reach = SAME * distances.shape[1] + 1e-12
        ends = np.searchsorted(total[order], total[order] + reach, side="right")
        for a, i in enumerate(order):
            for j in order[a + 1 : ends[a]]:
                if np.abs(distances[i] - distances[j]).max(initial=0) < SAME:
                    # the order by distances is nobody's: that of twins hangs on the last digit
                    found.append((min(rows[i], rows[j]), max(rows[i], rows[j])))  # noqa: PERF401 - three loops in one
    return sorted(found)


def _leaks(keys: Iterable[str], splits: Iterable[str]) -> list[str]:
    found: dict[str, set[str]] = defaultdict(set)
    for key, split in zip(keys, splits, strict=True):
        found[key].add(split)
    return [f"{key} in {' and '.join(sorted(parts))}" for key, parts in found.items() if len(parts) > 1]


def _found_leaks(structures: Sequence[Structure], splits: Sequence[str]) -> list[str]:
    return [f"{key} in {' and '.join(sorted(parts))}" for key, parts in divided(structures, splits)]


def run_checks(table: LabelTable, gradient: float | None, with_inchi: bool = True) -> list[Check]:
    """All checks. gradient: largest norm of the orbital gradient, hartree; None: not checked."""
    names = np.array(table.name, dtype=object)
    rows = list(table.structures())
    good = [k for k, row in enumerate(rows) if isinstance(row, Structure)]
    structures = [row for row in rows if isinstance(row, Structure)]
    splits = [table.split[k] for k in good]
    molecules = known_names(structures)
    nao = aos(table)
    infinite = ~np.isfinite(table.energy) & ~np.isnan(table.energy)
    no_energy, no_gradient = int(np.isnan(table.energy).sum()), int(np.isnan(table.gradient_norm).sum())
    sizes = np.flatnonzero(table.fock_size != nao * (nao + 1) // 2)
    residuals = energy_residuals(table)
    limit = max(ENERGY_LEAST, ENERGY_SIGMAS * _deviation(residuals)) if np.isfinite(residuals).any() else np.inf
    outliers = np.flatnonzero(np.abs(residuals) > limit)
    bound = np.inf if gradient is None else gradient
    stated = "no threshold stated; give --gradient" if gradient is None else f"below {gradient:.1e} hartree"
    checks = [
        Check("Fock matrices are finite", names[not_finite(table)].tolist()),
        Check("energies are finite", names[infinite].tolist(), f"{no_energy} rows have none" if no_energy else ""),
        Check(f"as many Fock elements as {table.basis} has", [f"{names[k]} has {table.fock_size[k]}" for k in sizes]),
        Check(
            "orbital gradients",
            [f"{names[k]} {table.gradient_norm[k]:.1e}" for k in np.flatnonzero(table.gradient_norm >= bound)],
            stated + (f"; {no_gradient} rows have none" if no_gradient else ""),
        ),
        Check(
            "energies fit the elements",
            [f"{names[k]} off by {residuals[k]:.2f}" for k in outliers],
            f"to {limit:.2f} hartree" if np.isfinite(limit) else "too few rows to tell",
        ),
        Check(
            "closed shells, no atoms on top of each other", [str(row) for row in rows if isinstance(row, ValueError)]
        ),
        Check(
            "splits are train, val or test",
            [f"{n} rows in {split!r}" for split, n in Counter(table.split).items() if split not in SPLITS],
            "" if "val" in table.split else "no val molecule",
        ),
        Check("no name twice", [name for name, n in Counter(table.name).items() if n > 1]),
        Check("no geometry twice", [f"{names[i]} and {names[j]}" for i, j in same_geometries(table)]),
        Check("no molecule in two splits", _leaks(molecules, splits), "by parent and QM9 index"),
    ]
    if with_inchi and len(set(splits)) > 1:
        checks.append(Check("no molecule in two splits", _found_leaks(structures, splits), "by InChI"))
    return checks


def _spread(values: NDArray, digits: str) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "unknown | | |"
    return " | ".join(format(v, digits) for v in np.quantile(known, [0, 0.5, 1])) + " |"


def summary(table: LabelTable, checks: Sequence[Check]) -> str:
    """Markdown: the set, its ranges and its checks."""
    elements, counts = table.composition()
    lines = [
        f"# {', '.join(path.name for path in table.paths)}",
        "",
        f"{len(table)} structures of {len(set(table.parent))} molecules; {table.xc}/{table.basis}; {table.conv}.",
        "",
        *(f"Source: {source}" for source in table.sources),
        "",
        "| | least | median | largest |",
        "|---|---|---|---|",
        f"| atoms | {_spread(table.n_atoms, '.0f')}",
        f"| AOs | {_spread(aos(table), '.0f')}",
        f"| orbital gradient, hartree | {_spread(table.gradient_norm, '.1e')}",
        f"| energy per atom, hartree | {_spread(table.energy / table.n_atoms, '.3f')}",
        "",
        "| element | structures | atoms |",
        "|---|---|---|",
        *(
            f"| {ELEMENTS[z]} | {(column > 0).sum()} | {column.sum()} |"
            for z, column in zip(elements, counts.T, strict=True)
        ),
        "",
        "| split | structures | molecules | frames | ions |",
        "|---|---|---|---|---|",
    ]
    for split in sorted(set(table.split)):
        rows = np.array([s == split for s in table.split])
        parents = {parent for parent, inside in zip(table.parent, rows, strict=True) if inside}
        frames, ions = (table.frame[rows] > 0).sum(), (table.charge[rows] != 0).sum()
        lines.append(f"| {split} | {rows.sum()} | {len(parents)} | {frames} | {ions} |")
    charges = ", ".join(f"{n} of {charge:+d}" for charge, n in sorted(Counter(table.charge.tolist()).items()) if charge)
    lines += ["", f"Charges: {charges or 'none'}.", "", "## Checks", "", *(check.line() for check in checks)]
    return "\n".join(lines) + "\n"


def _read(paths: Sequence[Path]) -> LabelTable:
    table = read_table(paths)
    if not 0 < table.atomic_numbers.min() <= table.atomic_numbers.max() < len(ELEMENTS):
        files = ", ".join(map(str, paths))
        raise LabelError(f"{files}: atomic numbers that no element has; copy the file or make it again")
    return table


def _check_folder(out: Path | None) -> None:
    """Make the folder of the results, before the work. Raises SetFileError where it cannot be written to."""
    if out is None:
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise SetFileError(f"{out}: not a folder that can be written to ({error.strerror}); give -o another") from None


def _write(out: Path, text: str, table: LabelTable, gradient: float | None) -> None:
    from data.picture import draw

    (out / "summary.md").write_text(text)
    if set(table.split) & set(SPLITS):
        draw(table, aos(table), energy_residuals(table), gradient, out / "summary.png")
    else:
        print(f"no picture: no structure is in any of {', '.join(SPLITS)}", file=sys.stderr)


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("data.inspect", __doc__)
    parser.add_argument("labels", nargs="+", type=Path, help="label files (HDF5), taken as one set")
    parser.add_argument("-o", "--out", type=Path, metavar="FOLDER", help="for summary.md and summary.png")
    parser.add_argument("--gradient", type=float, help="largest norm of the gradient; default: as the file says")
    parser.add_argument("--no-inchi", action="store_true", help="do not compare InChI between splits; saves minutes")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: print, write, and tell by the exit status."""
    a = options().parse_args(arguments)
    files = ", ".join(map(str, a.labels))
    _check_folder(a.out)
    try:
        table = _read(a.labels)
        gradient = a.gradient or stated_gradient(table.conv)
        checks = run_checks(table, gradient, not a.no_inchi)
    except BasisNotFoundError as error:
        raise LabelError(f"{files}: PySCF does not have the basis {table.basis!r} of the labels ({error})") from None
    except (LabelError, SetFileError):
        raise
    except (OSError, RuntimeError, UnicodeDecodeError) as error:
        raise LabelError(f"{files}: damaged inside, copy or make it again ({error})") from None
    text = summary(table, checks)
    print(text, end="")
    try:
        if a.out:
            _write(a.out, text, table, gradient)
    except OSError as error:
        raise SetFileError(f"{a.out}: cannot be written ({error})") from None
    return int(any(check.offenders for check in checks))


if __name__ == "__main__":
    sys.exit(main())
