"""Small structures made from bond lengths and angles (angstrom, degrees)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyscf.data import elements, nist

from training.bench.molecules import Molecule

Array = NDArray[np.float64]


def place(name: str, symbols: Sequence[str], positions: Any, charge: int = 0, spin: int = 0) -> Molecule:
    """Elements at positions, anything that makes an array (n_atoms, 3)."""
    numbers = tuple(int(elements.charge(symbol)) for symbol in symbols)
    return Molecule(name, numbers, np.asarray(positions, dtype=np.float64), charge, spin)


def atom(symbol: str, charge: int = 0, spin: int = 0) -> Molecule:
    """One atom, named by element and charge."""
    return place(f"{symbol}{_sign(charge)}", [symbol], np.zeros((1, 3)), charge, spin)


def diatomic(first: str, second: str, length: float, charge: int = 0, spin: int = 0) -> Molecule:
    """Two atoms, named by their elements and the charge."""
    formula = f"{first}2" if first == second else f"{first}{second}"
    return place(f"{formula}{_sign(charge)}", [first, second], [[0, 0, 0], [0, 0, length]], charge, spin)


def bent(name: str, centre: str, end: str, length: float, angle: float, charge: int = 0, spin: int = 0) -> Molecule:
    """Two equal bonds at an angle."""
    half = np.deg2rad(angle) / 2
    x, z = length * np.sin(half), length * np.cos(half)
    return place(name, [centre, end, end], [[0, 0, 0], [x, 0, z], [-x, 0, z]], charge, spin)


def polygon(count: int, radius: float) -> Array:
    """Corners (count, 3) of a regular polygon around the origin, in the xy plane."""
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), np.zeros(count)], axis=1)


def hydrogens(name: str, positions: ArrayLike) -> Molecule:
    """Hydrogen atoms, an even number of them."""
    positions = np.asarray(positions, dtype=np.float64)
    return place(name, ["H"] * len(positions), positions)


def rectangle(a: float, b: float) -> Array:
    """Corners (4, 3) of a rectangle around the origin, in order around it."""
    return np.array([[a, b, 0], [-a, b, 0], [-a, -b, 0], [a, -b, 0]]) / 2


def ethylene(twist: float) -> Molecule:
    """C2H4 with its second half turned about the double bond."""
    cc, ch, angle = 1.33, 1.085, np.deg2rad(121.5)
    out, back = ch * np.sin(angle), -ch * np.cos(angle)
    turn = np.deg2rad(twist)
    x, y = out * np.cos(turn), out * np.sin(turn)
    near = [[out, 0, -back], [-out, 0, -back]]
    far = [[x, y, cc + back], [-x, -y, cc + back]]
    return place(f"C2H4-twist{twist:.0f}", ["C", "C", *"HHHH"], [[0, 0, 0], [0, 0, cc], *near, *far])


def butadiene() -> Molecule:
    """trans-C4H6, planar, all angles 120 degrees."""
    unit = np.array([[1, 0, 0], [0.5, np.sqrt(0.75), 0]])
    carbons = np.cumsum([np.zeros(3), 1.34 * unit[0], 1.46 * unit[1], 1.34 * unit[0]], axis=0)
    down = unit[0] - unit[1]  # the third of the three directions of a trigonal centre, with unit[1] and -unit[0]
    ends = [(0, down - unit[0]), (0, unit[1] - unit[0]), (3, unit[0] - down), (3, unit[0] - unit[1])]
    ways = [*ends, (1, down), (2, -down)]
    bonds = [carbons[k] + 1.085 * way / np.linalg.norm(way) for k, way in ways]
    return place("C4H6", ["C"] * 4 + ["H"] * 6, [*carbons, *bonds])


def cyclobutadiene(a: float, b: float) -> Molecule:
    """C4H4 with C-C of two lengths, hydrogens along the diagonals."""
    carbons = rectangle(a, b)
    outward = carbons / np.linalg.norm(carbons, axis=1, keepdims=True)
    return place(f"C4H4-{a}x{b}", ["C"] * 4 + ["H"] * 4, [*carbons, *(carbons + 1.08 * outward)])


def benzene(name: str, without: Sequence[int] = (), stretch: float = 1.0, charge: int = 0, spin: int = 0) -> Molecule:
    """The regular ring without the hydrogens of these carbons: (0, 1), (0, 2), (0, 3) are o-, m- and p-benzyne."""
    kept = [k for k in range(6) if k not in without]
    positions = [*polygon(6, 1.39 * stretch), *polygon(6, 2.475 * stretch)[kept]]
    return place(name, ["C"] * 6 + ["H"] * len(kept), positions, charge, spin)


def trimethylenemethane() -> Molecule:
    """C(CH2)3, planar, of threefold symmetry."""
    arms = polygon(3, 1.41)
    ways = [(arm, sign) for arm in arms / 1.41 for sign in (1, -1)]
    bonds = [1.41 * way + 1.085 * _turned(way, sign * 60) for way, sign in ways]
    return place("C4H6-TMM", ["C"] * 4 + ["H"] * 6, [np.zeros(3), *arms, *bonds])


def beryllium_insertion(x: float) -> Molecule:
    """Be and H2 on the way to BeH2, x bohr of 0 to 4 (Purvis, Shepard, Brown, Bartlett, IJQC 23, 835 (1983))."""
    y = 2.54 - 0.46 * x
    return place(f"BeH2-{x}", ["Be", "H", "H"], nist.BOHR * np.array([[0, 0, 0], [x, y, 0], [x, -y, 0]]))


def _turned(way: Array, angle: float) -> Array:
    """A vector turned in the xy plane."""
    c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    turned: Array = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ way
    return turned


def _sign(charge: int) -> str:
    return "" if not charge else ("+" if charge > 0 else "-") * abs(charge)
