"""Structures with metals and heavy elements of two packages, whose data stay where they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from importlib import resources
from importlib.util import find_spec
from typing import Any

import numpy as np
from pyscf.data import elements, nist

from training.bench.molecules import Molecule, Seen
from training.bench.survey.cases import Case, level
from training.bench.survey.geometries import place

_LIGHT = 20  # a structure is taken for the elements beyond Ca
_MAX_ATOMS = 20
_BASIS = "def2-svp"

# Minnesota 2019 (doi:10.13020/217y-8g32): heavy p-block elements, 3d to 5d metals, their halides, oxides, complexes.
_MOLPRO = ("HEAVYSB11", "DGH4", "DM79", "MR-TM-BE12", "SR-TM-BE15", "SR-MGM-BE8", "TMDBL10", "TMBH22")
# Of tad-mctc's collections those with such elements.
_MCTC = ("heavy28", "f_block", "other")


class SetMissing(RuntimeError):
    """The package of a set is not installed."""


def read_set(name: str) -> list[Case]:
    """Cases of one of `SETS`: RKS or UKS in def2-SVP, with PBE where there are metals of the d block, else B3LYP.

    At most 20 atoms, with an element beyond Ca, none like another (0.02 angstrom), and what the basis covers. Raises
    SetMissing.
    """
    package, read = SETS[name]
    if find_spec(package.replace("-", "_")) is None:
        raise SetMissing(f"the set {name} needs structures that are not here: pip install {package}")
    seen, cases = Seen(0.02), list[Case]()
    for group, molecule in read():
        heavy = max(molecule.numbers) > _LIGHT and molecule.n_atoms <= _MAX_ATOMS
        if heavy and molecule not in seen and _in_basis(molecule):
            seen.add(molecule)
            cases.append(Case(group, molecule, level("", "pbe" if _metals(molecule) else "b3lyp", _BASIS)))
    return cases


def _metals(molecule: Molecule) -> bool:
    return any(21 <= z <= 30 or 39 <= z <= 48 or 57 <= z <= 80 for z in molecule.numbers)


def _in_basis(molecule: Molecule) -> bool:
    return all(_covered(z) for z in set(molecule.numbers))


def _covered(z: int) -> bool:
    """Whether PySCF has the basis for an element; what it has not it warns of and raises one or another error."""
    return z <= 57 or 72 <= z <= 86


def _molpro() -> Iterator[tuple[str, Molecule]]:
    """Structures in Cartesian coordinates; those in internal ones are left out."""
    folder = resources.files("pymolpro") / "share" / "database"
    for name in _MOLPRO:
        found: dict[str, Any] = json.loads((folder / f"Minnesota_2019_{name}.json").read_text())["molecules"]
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


def _mctc() -> Iterator[tuple[str, Molecule]]:
    from tad_mctc.data.structures import collections  # loads torch

    for name in _MCTC:
        for key, record in collections[name].items():
            if "lattice" in record:
                continue
            numbers = tuple(int(z) for z in record["numbers"])
            charge, spin = (int(record[x]) if x in record else 0 for x in ("charge", "uhf"))
            positions = nist.BOHR * np.asarray(record["positions"], dtype=np.float64)
            yield name, Molecule(key, numbers, positions, charge, spin)


SETS: dict[str, tuple[str, Callable[[], Iterator[tuple[str, Molecule]]]]] = {
    "molpro": ("pymolpro", _molpro),
    "mctc": ("tad-mctc", _mctc),
}
