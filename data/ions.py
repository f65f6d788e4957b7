"""Closed-shell ions of a molecule: one proton more at a lone pair, or one less where it is most acidic.

Sites are found by geometry alone, so that molecules from any source are served, and bond orders need not be known.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pyscf.data import nist, radii

from data.errors import MoleculeError
from data.identity import Bonds, bonds
from data.structure import Array, Structure
from data.xtb import energy

# elements by how readily they take, or give, a proton; each tier is used up before the next
_LONE_PAIRS = ((7, 8), (15, 16))
_ACIDS = ((8, 9, 16, 17, 34, 35, 53), (7,), (6, 14, 15))
_LARGEST = {7: 3, 8: 2, 15: 3, 16: 2}  # number of neighbours of an atom that still has a lone pair
_PLANAR = 353.0  # degrees, sum of angles: an amide N has 360, aniline's 345 to 350, an amine's 330
_DIRECTIONS = 24
_CLEARANCE = 1.2 / nist.BOHR  # of the new proton from all other atoms; in ammonium they are at 1.7 angstrom


def ions(parent: Structure, kind: str, rng: np.random.Generator) -> Iterator[tuple[int, Structure]]:
    """(site, ion) at every site, in the order drawn; positions not relaxed. kind: `protonate` or `deprotonate`.

    A site is the index of the heavy atom. Protonated are N and O, then P and S, that have a lone pair outside of the pi
    system: no ammonium, nitro, amide or pyrrole N (planar with three neighbours), no pi bonds. The proton is put where,
    of 24 directions, GFN2-xTB has the lowest energy. Deprotonated are O-H, S-H and H-halogen, then N-H, then C-H, Si-H
    and P-H. Sites where no proton can be put are passed over.
    """
    if kind == "protonate":
        for site in _drawn(parent, _LONE_PAIRS, _basic(parent), rng):
            ion = _protonated(parent, site)
            if ion is not None:
                yield site, ion
    else:
        bonded = bonds(parent)
        hydrogens = parent.atomic_numbers == 1
        for site in _drawn(parent, _ACIDS, np.asarray(bonded[:, hydrogens].any(axis=1)), rng):
            proton = rng.choice(np.flatnonzero(bonded[site] & hydrogens))
            yield site, _changed(parent, np.delete(np.arange(parent.n_atoms), proton), None)


def _drawn(parent: Structure, tiers: tuple[tuple[int, ...], ...], usable: Bonds, rng: np.random.Generator) -> list[int]:
    """Usable atoms of the first tier in random order, then those of the next."""
    sites: list[int] = []
    for tier in tiers:
        sites += rng.permutation(np.flatnonzero(np.isin(parent.atomic_numbers, tier) & usable)).tolist()
    return sites


def _basic(parent: Structure) -> Bonds:
    """Which atoms (n_atoms,) have a lone pair that takes a proton."""
    bonded = bonds(parent)
    usable = np.zeros(parent.n_atoms, dtype=bool)
    for i, z in enumerate(parent.atomic_numbers.tolist()):
        neighbours = np.flatnonzero(bonded[i])
        if len(neighbours) <= _LARGEST.get(z, -1):
            usable[i] = z != 7 or len(neighbours) < 3 or _angles(parent, i, neighbours) < _PLANAR
    return usable


def _angles(parent: Structure, i: int, neighbours: np.ndarray) -> float:
    """Sum of the three angles at atom i, degrees."""
    towards = parent.positions[neighbours] - parent.positions[i]
    towards /= np.linalg.norm(towards, axis=1)[:, None]
    cosines = (towards @ towards.T)[np.triu_indices(3, 1)]
    return float(np.degrees(np.arccos(np.clip(cosines, -1.0, 1.0))).sum())


def _protonated(parent: Structure, site: int) -> Structure | None:
    length = radii.COVALENT[parent.atomic_numbers[site]] + radii.COVALENT[1]
    others = np.delete(parent.positions, site, axis=0)
    best, lowest = None, np.inf
    for direction in _sphere(_DIRECTIONS):
        position = parent.positions[site] + length * direction
        if len(others) and np.linalg.norm(others - position, axis=1).min() < _CLEARANCE:
            continue
        ion = _changed(parent, np.arange(parent.n_atoms), position)
        try:
            value = energy(ion)
        except MoleculeError:
            continue  # the next direction may do
        if value < lowest:
            best, lowest = ion, value
    return best


def _changed(parent: Structure, kept: np.ndarray, added: Array | None) -> Structure:
    """The parent with `kept` atoms only, and a proton at `added`, bohr."""
    numbers, positions = parent.atomic_numbers[kept], parent.positions[kept]
    if added is not None:
        numbers, positions = np.append(numbers, 1), np.vstack([positions, added])
    return Structure(
        name=parent.name,
        atomic_numbers=numbers,
        positions=positions,
        charge=parent.charge + (1 if added is not None else -1),
        parent=parent.parent,
        gdb_index=parent.gdb_index,
        smiles=parent.smiles,
    )


def _sphere(n: int) -> Array:
    """n unit vectors (n, 3) spread evenly: the spiral of the golden angle."""
    k = np.arange(n)
    z = 1.0 - (2.0 * k + 1.0) / n
    around = k * np.pi * (3.0 - 5.0**0.5)
    ring = np.sqrt(1.0 - z**2)
    return np.stack([ring * np.cos(around), ring * np.sin(around), z], axis=1)
