"""Structures with metals and heavy elements of two packages, whose data stay where they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from pyscf.data import elements, nist

from training.bench.molecules import Molecule, Seen
from training.bench.survey.cases import Case, level
from training.bench.survey.geometries import place

_LIGHT = 20  # a structure is taken for the elements beyond Ca
_MAX_ATOMS = {"pbe": 20, "b3lyp": 13}  # more take minutes with exact exchange
_BASIS = "def2-svp"

# Minnesota 2019 (doi:10.13020/217y-8g32): heavy p-block elements, 3d to 5d metals, their halides, oxides, complexes.
_MOLPRO = ("HEAVYSB11", "DGH4", "DM79", "MR-TM-BE12", "SR-TM-BE15", "SR-MGM-BE8", "TMDBL10", "TMBH22")
# Of tad-mctc's collections those with such elements.
_MCTC = ("heavy28", "f_block", "other")


class SetMissing(RuntimeError):
    """The package of a set is not installed."""


def read_set(name: str) -> list[Case]:
    """Cases of one of `SETS`: RKS or UKS in def2-SVP, with PBE where there are metals of the d block, else B3LYP.

    At most 20 atoms, 13 with B3LYP; with an element beyond Ca, none like another (0.02 angstrom), all in the basis.
    Raises SetMissing.
    """
    package, read = SETS[name]
    spec = find_spec(package.replace("-", "_"))
    if spec is None or not spec.submodule_search_locations:
        raise SetMissing(f"the set {name} needs structures that are not here: pip install {package}")
    folder = Path(spec.submodule_search_locations[0])
    seen, cases = Seen(0.02), list[Case]()
    for group, molecule in read(folder):
        xc = "pbe" if _metals(molecule) else "b3lyp"
        wanted = max(molecule.numbers) > _LIGHT and molecule.n_atoms <= _MAX_ATOMS[xc] and _countable(molecule)
        if wanted and molecule not in seen and all(map(_in_basis, molecule.numbers)):
            seen.add(molecule)
            cases.append(Case(group, molecule, level("", xc, _BASIS)))
    return cases


def _metals(molecule: Molecule) -> bool:
    return any(21 <= z <= 30 or 39 <= z <= 48 or 57 <= z <= 80 for z in molecule.numbers)


def _countable(molecule: Molecule) -> bool:
    """Whether the electrons can have that spin; some records of ions do not say that they are."""
    return (sum(molecule.numbers) - molecule.charge - molecule.spin) % 2 == 0


def _in_basis(z: int) -> bool:
    """Whether PySCF has def2-SVP for an element: up to Rn, without the lanthanoids after La."""
    return z <= 57 or 72 <= z <= 86


def _molpro(folder: Path) -> Iterator[tuple[str, Molecule]]:
    """Structures in Cartesian coordinates; those in internal ones are left out. The package itself is not imported."""
    for name in _MOLPRO:
        path = folder / "share" / "database" / f"Minnesota_2019_{name}.json"
        found: dict[str, Any] = json.loads(path.read_text())["molecules"]
        for key, entry in found.items():
            words = [line.split() for line in entry["geometry"].splitlines()]
            lines = [line for line in words if len(line) == 4]
            if lines and "angstrom" not in entry.get("preamble", ""):
                symbols = [_symbol(line[0]) for line in lines]
                xyz = [[float(x) for x in line[1:]] for line in lines]
                yield name, place(key, symbols, xyz, entry.get("charge", 0), entry.get("spin", 0))


def _symbol(word: str) -> str:
    """An element by symbol in any case, or by number."""
    return str(elements.ELEMENTS[int(word)]) if word.isdigit() else word.capitalize()


def _mctc(_: Path) -> Iterator[tuple[str, Molecule]]:
    structures = import_module("tad_mctc.data.structures")  # loads torch
    for name in _MCTC:
        for key, record in structures.collections[name].items():
            if "lattice" in record or (key.endswith("-") and "charge" not in record):
                continue
            numbers = tuple(int(z) for z in record["numbers"])
            charge, spin = (int(record[x]) if x in record else 0 for x in ("charge", "uhf"))
            positions = nist.BOHR * np.asarray(record["positions"], dtype=np.float64)
            yield name, Molecule(key, numbers, positions, charge, spin)


SETS: dict[str, tuple[str, Callable[[Path], Iterator[tuple[str, Molecule]]]]] = {
    "molpro": ("pymolpro", _molpro),
    "mctc": ("tad-mctc", _mctc),
}
