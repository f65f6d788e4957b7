"""Structures and labels that the tests of `data` share. Labels are numbers, not calculations: keeping does not look."""

from __future__ import annotations

import zlib

import numpy as np

from data.structure import LabelRow, Structure


def hydrogen(name: str, distance: float = 1.4, parent: str = "") -> Structure:
    return Structure(name, np.array([1, 1]), np.array([[0.0, 0, 0], [0, 0, distance]]), parent=parent)


def row_of(structure: Structure) -> LabelRow:
    """A label that its name decides."""
    rng = np.random.default_rng(zlib.crc32(structure.name.encode()))
    return LabelRow(structure, rng.normal(size=3).astype(np.float32), -1.1, 1e-6, 7, 0.5)
