"""Databases of Hamiltonians with overlap matrices, such as those of SchNOrb and PhiSNet for MD17, as label files.

    python -m data.hamiltonians FILE -o LABELS.h5 --xc pbe --basis def2-svp --unit angstrom [--val 0.1]

FILE is an npz with arrays R (n, n_atoms, 3), Z (n_atoms,) or (n, n_atoms), H or hamiltonian and S or overlap
(n, nao, nao), or an ASE database whose rows have `hamiltonian` and `overlap` in their data. Matrices are in hartree.
Programs order the AOs of a shell differently. The overlap tells how: an order is taken only if it makes the overlap of
the file that of PySCF, in every frame; a wrong unit, basis or order of the shells is found by the same check.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from pyscf import gto, lib
from pyscf.data.nist import BOHR

from data.checks import check_theory
from data.errors import SetFileError
from data.labelfile import Attributes, write_labels
from data.settings import Split, TheoryLevel
from data.splits import assign
from data.structure import Array, LabelRow, Seed, Structure
from training.command import command, make_parser

TOLERANCE = 1e-4  # of the overlap; files with float32 matrices have 1e-7, a wrong order has 1e-1


@dataclasses.dataclass(frozen=True)
class Convention:
    """Order of the AOs within a shell of degree l, l = 1 to 4 in turn, as the orders m of the real harmonics.

    Shells follow each other as in PySCF: by atom, then l. flipped: (l, m) of those with the other sign than PySCF's.
    """

    name: str
    orders: tuple[tuple[int, ...], ...]
    flipped: tuple[tuple[int, int], ...] = ()


_FROM_BELOW = tuple(tuple(range(-l, l + 1)) for l in (1, 2, 3, 4))
_FROM_ZERO = tuple(tuple(sorted(orders, key=lambda m: (abs(m), -m))) for orders in _FROM_BELOW)  # 0, 1, -1, 2, -2 ...
_PYSCF = ((1, -1, 0), *_FROM_BELOW[1:])  # x y z, then by m
CONVENTIONS = (
    Convention("pyscf", _PYSCF),
    Convention("ascending m", _FROM_BELOW),
    Convention("psi4", _FROM_ZERO),
    Convention("orca", _FROM_ZERO, tuple((l, m) for l in (3, 4) for m in (3, -3, 4, -4) if abs(m) <= l)),
    Convention("fhi-aims", _FROM_BELOW, tuple((l, m) for l in (1, 2, 3, 4) for m in range(1, l + 1, 2))),
)


@cache
def aos_of_element(basis: str, atomic_number: int) -> int:
    """Number of AOs that an element has in a basis. Raises PySCF's BasisNotFoundError."""
    with warnings.catch_warnings():  # PySCF recommends a package where it does not find a basis
        warnings.simplefilter("ignore")
        return int(gto.M(atom=[(atomic_number, (0, 0, 0))], basis=basis, spin=atomic_number % 2, verbose=0).nao)


def reorder(convention: Convention, mol: gto.Mole) -> tuple[NDArray[np.int64], Array]:
    """(index, sign), each (nao,): sign[i] sign[j] M[index[i], index[j]] is M in PySCF's order. Raises SetFileError."""
    index, sign, start = [], [], 0
    for shell in range(mol.nbas):
        l = mol.bas_angular(shell)
        if l > len(_PYSCF):
            raise SetFileError(f"{mol.basis}: shells of degree {l} are not known; 4 is the highest")
        here = _PYSCF[l - 1] if l else (0,)
        there = convention.orders[l - 1] if l else (0,)
        for _ in range(mol.bas_nctr(shell)):
            index += [start + there.index(m) for m in here]
            sign += [-1.0 if (l, m) in convention.flipped else 1.0 for m in here]
            start += len(here)
    return np.array(index), np.array(sign)


def _ordered(matrix: Array, convention: Convention, mol: gto.Mole) -> Array:
    index, sign = reorder(convention, mol)
    return np.asarray(matrix[np.ix_(index, index)] * np.outer(sign, sign))


def find_convention(fock: Array, overlap: Array, mol: gto.Mole) -> Convention:
    """The convention that makes `overlap` (nao, nao) PySCF's, to TOLERANCE. fock (nao, nao), hartree.

    Raises SetFileError if none does, or if two do that differ in the Fock matrix (a molecule with symmetry).
    """
    exact = mol.intor("int1e_ovlp")
    if overlap.shape != exact.shape or fock.shape != exact.shape:
        raise SetFileError(
            f"matrices {fock.shape} and {overlap.shape}, but {mol.basis} has {mol.nao} AOs; other basis?"
        )
    errors = [float(np.abs(_ordered(overlap, c, mol) - exact).max()) for c in CONVENTIONS]
    found = [c for c, error in zip(CONVENTIONS, errors, strict=True) if error < TOLERANCE]
    if not found:
        best = int(np.argmin(errors))
        raise SetFileError(
            f"no known order of AOs makes the overlap that of PySCF in {mol.basis}: {CONVENTIONS[best].name} is off by "
            f"{errors[best]:.1e}; check the basis and the unit of the positions"
        )
    for other in found[1:]:
        if np.abs(_ordered(fock, found[0], mol) - _ordered(fock, other, mol)).max() > TOLERANCE:
            names = " and ".join(c.name for c in found)
            raise SetFileError(f"the overlap does not tell {names} apart; put a frame without symmetry first")
    return found[0]


@dataclasses.dataclass(frozen=True)
class Frame:
    """One row: atomic_numbers (n_atoms,), positions (n_atoms, 3) in the file's unit, matrices (nao, nao), energy."""

    atomic_numbers: NDArray[np.int64]
    positions: Array
    fock: Array
    overlap: Array
    energy: float


def read_frames(path: Path) -> Iterator[Frame]:
    """Frames of an npz or ASE database, streamed from the latter. Raises SetFileError that names the file."""
    try:
        yield from _npz_frames(path) if path.suffix == ".npz" else _ase_frames(path)
    except KeyError as error:
        raise SetFileError(
            f"{path}: no array {error} in the file; it needs positions, Hamiltonian and overlap"
        ) from None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise SetFileError(f"{path}: not a readable database of Hamiltonians ({error})") from None


def _npz_frames(path: Path) -> Iterator[Frame]:
    with np.load(path) as data:
        fock, overlap = (data[a if a in data else b] for a, b in (("H", "hamiltonian"), ("S", "overlap")))
        energies = np.ravel(data["E" if "E" in data else "energy"]) if {"E", "energy"} & set(data) else None
        numbers, positions = data["Z"].astype(np.int64), data["R"].astype(np.float64)
    arrays = {"R": positions, "Hamiltonian": fock, "overlap": overlap}
    arrays |= {"Z": numbers} if numbers.ndim == 2 else {}
    arrays |= {} if energies is None else {"energy": energies}
    if len({a.shape[:1] for a in arrays.values()}) > 1:
        raise ValueError(f"not as many of each: {', '.join(f'{key} {a.shape}' for key, a in arrays.items())}")
    for k, x in enumerate(positions):
        energy = float("nan") if energies is None else float(energies[k])
        yield Frame(
            numbers[k] if numbers.ndim == 2 else numbers, x, fock[k].astype(float), overlap[k].astype(float), energy
        )


def _ase_frames(path: Path) -> Iterator[Frame]:
    from ase.db import connect

    if not path.is_file():
        raise OSError("there is no such file")
    for row in connect(str(path)).select():
        energy = float(np.ravel(row.data.get("energy", float("nan")))[0])
        fock, overlap = (np.asarray(row.data[name], dtype=float) for name in ("hamiltonian", "overlap"))
        yield Frame(row.numbers.astype(np.int64), row.positions, fock, overlap, energy)


def read_rows(path: Path, basis: str, unit: str) -> Iterator[LabelRow]:
    """Labels of a database, Fock matrices in PySCF's order; unit: angstrom or bohr.

    Raises SetFileError that names the file and frame, also for a basis that PySCF does not have for its elements.
    """
    convention = None
    known: set[int] = set()
    for k, frame in enumerate(read_frames(path)):
        positions = frame.positions / (BOHR if unit == "angstrom" else 1.0)
        try:
            name = f"{path.stem}_md{k + 1}"
            structure = Structure(name, frame.atomic_numbers, positions, parent=path.stem, frame=k + 1)
            if not known.issuperset(structure.atomic_numbers.tolist()):
                check_theory(TheoryLevel("hf", basis), [Seed(name, structure=structure)])
                known.update(structure.atomic_numbers.tolist())
            mol = structure.molecule(basis)
            convention = convention or find_convention(frame.fock, frame.overlap, mol)
        except ValueError as error:
            raise SetFileError(f"{path}, frame {k}: {error}") from None
        if np.abs(_ordered(frame.overlap, convention, mol) - mol.intor("int1e_ovlp")).max() > TOLERANCE:
            raise SetFileError(
                f"{path}, frame {k}: the overlap is not in the {convention.name} order of the first frame"
            )
        fock = _ordered(frame.fock, convention, mol)
        if np.abs(fock - fock.T).max() > TOLERANCE:
            raise SetFileError(f"{path}, frame {k}: the Hamiltonian is not symmetric")
        yield LabelRow(structure, lib.pack_tril(fock).astype(np.float32), frame.energy, float("nan"))


def options() -> argparse.ArgumentParser:
    """Command line."""
    parser = make_parser("data.hamiltonians", __doc__)
    parser.add_argument("file", type=Path, help="npz or ASE database with Hamiltonians and overlap matrices")
    parser.add_argument("-o", "--out", type=Path, required=True, help="label file (HDF5) to write")
    parser.add_argument("--xc", required=True, help="functional of the matrices, by PySCF's name")
    parser.add_argument("--basis", required=True, help="their basis, by PySCF's name")
    parser.add_argument("--unit", choices=("angstrom", "bohr"), required=True, help="of the positions")
    parser.add_argument("--val", type=float, default=0.1, help="share of the frames for validation")
    return parser


@command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: write a label file, its frames split at random."""
    a = options().parse_args(arguments)
    if a.out.is_dir() or a.out.resolve() == a.file.resolve():
        raise SetFileError(f"{a.out}: a folder, or the file that is read; give -o another name")
    check_theory(TheoryLevel(a.xc, a.basis), ())
    structures = [row.structure for row in read_rows(a.file, a.basis, a.unit)]
    splits = assign(Split("random", val=a.val), structures)
    rows = zip(read_rows(a.file, a.basis, a.unit), splits, strict=True)
    n = write_labels(a.out, Attributes(a.xc, a.basis, -1, "as in the source", a.file.name), rows)
    print(f"{a.out}: {n} frames")


if __name__ == "__main__":
    sys.exit(main())
