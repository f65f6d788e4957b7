"""Train, validation and test: our own splits, and the official ones of QH9 reproduced from their seeds.

QH9-Stable counts its molecules by position, 0 to 130830: QM9 in the order of its indices, with 3,054 left out. Those
were meant to be the uncharacterised ones, but indices counted from one were taken for indices counted from zero: u + 1
is missing for each uncharacterised u. `data/manifests/README.md` tells where the small tables are from.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.molecules import divided, known_names, molecule_names
from data.settings import Split
from data.structure import Structure

Index = NDArray[np.int64]

QM9_SIZE, STABLE_SIZE = 133_885, 130_831
SEED = 43  # of every official split
_TABLES = Path(__file__).with_name("manifests") / "qm9.npz"
_STABLE_TRAIN, _STABLE_VAL = 104_664, 13_083
_OOD_TRAIN_ATOMS, _OOD_VAL_ATOMS = 20, 22
_DYNAMIC_DRAWN, _DYNAMIC_FAILED = 3000, (1000, 1001)  # molecules drawn for Dynamic-300k; the two that are not in it


class Parts(NamedTuple):
    """Positions of the training, validation and test molecules, each (n,) int64, in the order of the recipe."""

    train: Index
    val: Index
    test: Index

    def names(self, n: int) -> list[str]:
        """'train', 'val' or 'test' for each position 0 ... n-1; '' for those in no part."""
        found = np.full(n, "", dtype="<U5")
        for part, positions in zip(self._fields, self, strict=True):
            found[positions] = part
        return found.tolist()


def assign(split: Split, structures: Sequence[Structure]) -> list[str]:
    """'train', 'val' or 'test' for each structure, whatever their order.

    random and molecule have exact shares of the structures or molecules, rounded, at least one for a share above 0 and
    at least one left to train. They sort by a hash of seed and name: the first of the order are val, the last test. A
    set that grows keeps its molecules where they are, but for those next to the two borders. A molecule is all
    structures that its source calls one, by a parent or a QM9 index, ions and frames among them. Only where that would
    part structures that are found to be of one molecule (`molecules.molecule_names`), these count as one as well.

    qh9-id and qh9-ood go by the QM9 index, ions and frames as their molecule. What is not from QM9 (index -1) trains.
    The 3,054 molecules that QH9-Stable left out are in no official part: in qh9-id they train, in qh9-ood they go by
    their number of atoms (that of the neutral molecule), by which QH9 made it, so that no large one trains.
    """
    if split.kind == "train":
        return ["train"] * len(structures)
    if split.kind == "random":
        return _by_hash(split, [s.name for s in structures])
    if split.kind == "molecule":
        return _by_molecule(split, structures)
    if split.kind == "size":
        return [by_size(s.n_atoms, split.train_atoms, split.val_atoms) for s in structures]
    return _official(split.kind, structures)


def _by_molecule(split: Split, structures: Sequence[Structure]) -> list[str]:
    by_source = _by_hash(split, known_names(structures))
    return _by_hash(split, molecule_names(structures)) if divided(structures, by_source) else by_source


def _by_hash(split: Split, keys: list[str]) -> list[str]:
    order = sorted(set(keys), key=lambda key: (hashlib.sha256(f"{split.seed}:{key}".encode()).digest(), key))
    n = len(order)
    n_val = min(max(math.floor(split.val * n + 0.5), int(split.val > 0)), max(n - 1, 0))
    n_test = min(max(math.floor(split.test * n + 0.5), int(split.test > 0)), max(n - 1 - n_val, 0))
    val, test = set(order[:n_val]), set(order[n - n_test :])
    return ["val" if key in val else "test" if key in test else "train" for key in keys]


def by_size(n_atoms: int, train: int, val: int) -> str:
    """Split of a structure by its number of atoms."""
    return "train" if n_atoms <= train else "val" if n_atoms <= val else "test"


def _official(kind: str, structures: Sequence[Structure]) -> list[str]:
    gdb = stable_gdb_index()
    names = (stable_id() if kind == "qh9-id" else stable_ood(stable_n_atoms())).names(STABLE_SIZE)
    found = []
    for s in structures:
        k = int(np.searchsorted(gdb, s.gdb_index))
        if s.gdb_index < 0:
            found.append("train")
        elif k < STABLE_SIZE and gdb[k] == s.gdb_index:
            found.append(names[k])
        elif kind == "qh9-id":
            found.append("train")
        else:  # an ion of one proton more or less has as many atoms more as its charge
            found.append(by_size(s.n_atoms - s.charge, _OOD_TRAIN_ATOMS, _OOD_VAL_ATOMS))
    return found


@cache
def _table(name: str) -> Index:
    with np.load(_TABLES) as tables:
        values = tables[name].astype(np.int64)
    values.setflags(write=False)
    return values


def uncharacterised() -> Index:
    """QM9 indices (3054,), counted from 1, of the molecules whose geometry is not that of their SMILES."""
    return _table("uncharacterised")


def stable_n_atoms() -> Index:
    """Number of atoms (130831,) of the molecules of QH9-Stable, by position."""
    return _table("n_atoms")


def stable_gdb_index() -> Index:
    """QM9 index (130831,), counted from 1, of the molecules of QH9-Stable, by position; ascending."""
    return np.setdiff1d(np.arange(1, QM9_SIZE + 1), uncharacterised() + 1)


def stable_id() -> Parts:
    """The random split of QH9-Stable ('id'): 104,664 / 13,083 / 13,084 positions."""
    order = np.random.RandomState(SEED).permutation(STABLE_SIZE).astype(np.int64)
    return Parts(*np.split(order, [_STABLE_TRAIN, _STABLE_TRAIN + _STABLE_VAL]))


def stable_ood(n_atoms: Index) -> Parts:
    """The split of QH9-Stable by size ('ood'): up to 20, 21 and 22, from 23 atoms; n_atoms (n,) by position."""
    names = np.array([by_size(int(n), _OOD_TRAIN_ATOMS, _OOD_VAL_ATOMS) for n in n_atoms])
    return Parts(*(np.flatnonzero(names == part) for part in Parts._fields))


def acceleration50() -> Index:
    """Positions (50,) in QH9-Stable of the molecules of QH9's test of DFT acceleration, in the published order."""
    both = np.intersect1d(stable_id().test, stable_ood(stable_n_atoms()).test)
    return np.random.default_rng(SEED).choice(both, 50, replace=False)


def dynamic_gdb_index() -> Index:
    """QM9 index (2998,) of the molecules of QH9-Dynamic-300k, in their order.

    The first 3,000 of 10,000 positions of QH9-Stable drawn at random; two have no trajectory.
    """
    drawn = np.random.default_rng(SEED).choice(STABLE_SIZE, 10_000, replace=False)[:_DYNAMIC_DRAWN]
    return stable_gdb_index()[np.delete(drawn, _DYNAMIC_FAILED)]


def dynamic_molecules(n: int) -> Parts:
    """The split of QH9-Dynamic by molecule ('mol'): 80, 10 and 10 % of n molecules; 2,398/299/301 of the 300k set."""
    order = list(range(n))
    random.Random(SEED).shuffle(order)  # noqa: S311 - the published recipe
    return Parts(*np.split(np.array(order, dtype=np.int64), [n * 8 // 10, n * 8 // 10 + n // 10]))


def dynamic_geometries(sizes: Sequence[int]) -> Parts:
    """The split of QH9-Dynamic by geometry: 80, 10 and 10 % of the rows of each molecule. Positions are those of rows.

    sizes: number of rows of each molecule, which follow each other; 100 each in the 300k set. The generator of a
    molecule is seeded by the position of its last row; this reproduces the published test of DFT acceleration.
    """
    parts: tuple[list[Index], ...] = ([], [], [])
    end = 0
    for n in sizes:
        start, end = end, end + n
        order = np.random.RandomState(end - 1).permutation(n) + start
        for part, rows in zip(parts, np.split(order, [n * 8 // 10, n * 8 // 10 + n // 10]), strict=True):
            part.append(rows.astype(np.int64))
    return Parts(*(np.concatenate([np.empty(0, dtype=np.int64), *part]) for part in parts))
