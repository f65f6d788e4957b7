"""Splits: shares, stability, groups, and the official ones of QH9 against numbers from its published files."""

import csv
import importlib.util
import random
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from data import splits
from data.molecules import known_names
from data.settings import Split
from data.structure import Structure


def structure(
    name: str, parent: str = "", gdb_index: int = -1, n_hydrogen: int = 2, charge: int = 0, frame: int = 0
) -> Structure:
    """A chain of hydrogen atoms, the first helium where the number is odd: only names and counts matter here.
    Those of one number are one molecule.
    """
    positions = 2.0 * np.arange(n_hydrogen)[:, None] * [1.0, 0, 0]
    numbers = np.ones(n_hydrogen, dtype=np.int64)
    if (n_hydrogen - charge) % 2:
        numbers[0] = 2
    return Structure(name, numbers, positions, charge, parent, frame, gdb_index)


def weighted(values: NDArray[np.int64]) -> int:
    """A sum that depends on the order of the values."""
    return int((np.arange(len(values)) % 1009 * np.asarray(values, dtype=np.int64)).sum())


@given(
    n=st.integers(1, 120), val=st.floats(0, 0.5), test=st.floats(0, 0.49), seed=st.integers(0, 99), data=st.randoms()
)
@settings(max_examples=60, deadline=None)
def test_random_shares_are_exact_and_the_order_does_not_matter(
    n: int, val: float, test: float, seed: int, data: random.Random
) -> None:
    split = Split("random", val=val, test=test, seed=seed)
    structures = [structure(f"m{k}") for k in range(n)]
    found = splits.assign(split, structures)
    if n >= 3:
        assert found.count("val") == max(int(val * n + 0.5), val > 0) or found.count("train") == 1
        assert found.count("test") == max(int(test * n + 0.5), test > 0) or found.count("train") == 1
    assert found.count("train") >= 1
    order = list(range(n))
    data.shuffle(order)
    assert splits.assign(split, [structures[k] for k in order]) == [found[k] for k in order]


def test_seeds_differ_and_a_grown_set_keeps_its_molecules() -> None:
    structures = [structure(f"m{k}") for k in range(1000)]
    first, second = (splits.assign(Split("random", val=0.1, test=0.1, seed=s), structures) for s in (0, 1))
    assert sum(a != b for a, b in zip(first, second, strict=True)) > 200
    grown = splits.assign(Split("random", val=0.1, test=0.1), structures + [structure(f"n{k}") for k in range(50)])
    assert sum(a != b for a, b in zip(first, grown, strict=False)) < 20
    assert [first.count(s) for s in ("train", "val", "test")] == [800, 100, 100]


def test_frames_ions_and_equal_qm9_indices_stay_together() -> None:
    structures = []
    for k in range(30):
        size = 2 * k + 2
        structures += [structure(f"{k}_md{f}", f"p{k}", frame=f, n_hydrogen=size) for f in range(3)]
        structures.append(structure(f"{k}_ionp0", f"p{k}", charge=1, n_hydrogen=size))
    # a chain: p0 - index 7 - q - index 8 - r
    structures += [structure("a", "p0", 7), structure("b", "q", 7), structure("c", "q", 8), structure("d", "r", 8)]
    for seed in range(5):
        found = splits.assign(Split("molecule", val=0.3, test=0.2, seed=seed), structures)
        molecules = [s.parent if s.parent not in {"q", "r"} else "p0" for s in structures]
        parts: dict[str, set[str]] = {}
        for molecule, part in zip(molecules, found, strict=True):
            parts.setdefault(molecule, set()).add(part)
        assert all(len(p) == 1 for p in parts.values())
        assert sum(p == {"val"} for p in parts.values()) == 9
        assert sum(p == {"test"} for p in parts.values()) == 6
    assert set(known_names(structures[-4:])) == {"p0"}


def test_small_sets_have_a_validation_molecule_and_keep_one_to_train() -> None:
    two = [structure("a"), structure("b", n_hydrogen=4)]
    assert sorted(splits.assign(Split("molecule", val=0.01), two)) == ["train", "val"]
    assert splits.assign(Split("molecule", val=0.9), two[:1]) == ["train"]
    assert splits.assign(Split("random", val=0.0), two) == ["train", "train"]
    assert splits.assign(Split("random"), []) == splits.assign(Split("molecule"), []) == []
    assert splits.assign(Split("train"), two) == ["train", "train"]


def test_size() -> None:
    found = splits.assign(
        Split("size", train_atoms=4, val_atoms=5), [structure("x", n_hydrogen=n) for n in (2, 4, 5, 6)]
    )
    assert found == ["train", "train", "val", "test"]


def test_qm9_indices_and_atom_counts_of_stable() -> None:
    gdb, n_atoms, missing = splits.stable_gdb_index(), splits.stable_n_atoms(), splits.uncharacterised()
    assert len(gdb) == len(n_atoms) == 130831
    assert len(missing) == 3054
    assert (gdb.sum(), weighted(gdb)) == (8744686688, 4403485322843)
    assert (n_atoms.sum(), weighted(n_atoms)) == (2358210, 1188101495)
    assert np.isin(gdb, missing).sum() == 1993
    assert list(missing[:6]) == [58, 61, 80, 185, 186, 245]
    with pytest.raises(ValueError, match="read-only"):
        n_atoms[0] = 1


def test_the_tables_agree_with_qm9() -> None:
    spec = importlib.util.find_spec("qm9pack")
    if spec is None or spec.origin is None:
        pytest.skip("needs qm9pack's data files")
    csv.field_size_limit(sys.maxsize)
    with (Path(spec.origin).parent / "data" / "qm9_part1.csv").open(newline="") as file:
        reader = csv.reader(file)
        header = next(reader)
        index, atoms = header.index("Index"), header.index("N_atoms")
        counts = {int(row[index]): int(row[atoms]) for row in reader}
    last = max(counts)
    assert sorted(set(range(1, last + 1)) - set(counts)) == [u for u in splits.uncharacterised() if u <= last]
    gdb, n_atoms = splits.stable_gdb_index(), splits.stable_n_atoms()
    assert all(counts.get(int(g), n) == n for g, n in zip(gdb[gdb <= last], n_atoms, strict=False))


@pytest.mark.parametrize(
    ("parts", "lengths", "sums", "orders", "heads"),
    [
        (
            splits.stable_id,
            (104664, 13083, 13084),
            (6840208775, 859033304, 859067786),
            (3443760217732, 429399099151, 432992000504),
            (39707, 77023, 93742),
        ),
        (
            lambda: splits.stable_ood(splits.stable_n_atoms()),
            (104001, 17495, 9335),
            (6268394848, 1432647533, 857267484),
            (3165788020068, 717960777131, 430376726063),
            (0, 1065, 1067),
        ),
        (
            lambda: splits.dynamic_molecules(2998),
            (2398, 299, 301),
            (3603992, 440491, 448020),
            (1656213103, 64974743, 67321437),
            (1755, 1000, 777),
        ),
    ],
    ids=["stable id", "stable ood", "dynamic mol"],
)
def test_official_splits(
    parts: Callable[[], splits.Parts],
    lengths: tuple[int, ...],
    sums: tuple[int, ...],
    orders: tuple[int, ...],
    heads: tuple[int, ...],
) -> None:
    found = parts()
    assert tuple(map(len, found)) == lengths
    assert tuple(int(p.sum()) for p in found) == sums
    assert tuple(map(weighted, found)) == orders
    assert tuple(int(p[0]) for p in found) == heads
    assert len(np.unique(np.concatenate(found))) == sum(lengths)


def test_the_fifty_molecules_of_the_acceleration_test() -> None:
    positions = splits.acceleration50()
    gdb = splits.stable_gdb_index()[positions]
    assert list(positions[:5]) == [120427, 112849, 119593, 94714, 6359]
    assert (positions.sum(), weighted(positions), gdb.sum(), weighted(gdb)) == (4765409, 115784067, 4859206, 118080940)


def test_dynamic_molecules_and_geometries() -> None:
    gdb = splits.dynamic_gdb_index()
    assert (len(gdb), gdb.sum(), weighted(gdb)) == (2998, 202961118, 100417446540)
    # the published test of DFT acceleration: 50 of the test geometries of the test molecules
    geometries = splits.dynamic_geometries([100] * 2998)
    assert tuple(map(len, geometries)) == (80 * 2998, 10 * 2998, 10 * 2998)
    both = geometries.test[np.isin(geometries.test // 100, splits.dynamic_molecules(2998).test)]
    rows = np.random.default_rng(43).choice(np.sort(both), 50, replace=False)
    assert list(zip(rows // 100, rows % 100, strict=True))[:4] == [(744, 83), (2235, 32), (2871, 51), (1340, 72)]
    assert (rows // 100).sum() + (rows % 100).sum() == 82454


def test_assignment_by_qm9_index() -> None:
    gdb = splits.stable_gdb_index()
    id_test, ood_val = gdb[splits.stable_id().test[0]], gdb[splits.stable_ood(splits.stable_n_atoms()).val[0]]
    absent = splits.uncharacterised()[0] + 1  # QM9 has it, QH9 has not
    structures = [
        structure("x", gdb_index=int(id_test)),
        structure("x_ion", gdb_index=int(id_test), n_hydrogen=3, charge=1),
        structure("y", gdb_index=int(ood_val)),
        structure("absent", gdb_index=int(absent), n_hydrogen=23),
        structure("absent_ion", gdb_index=int(absent), n_hydrogen=23, charge=1),
        structure("other", n_hydrogen=30),
        structure("beyond", gdb_index=133999),
    ]
    by_id = splits.assign(Split("qh9-id"), structures)
    by_size = splits.assign(Split("qh9-ood"), structures)
    assert by_id[:2] == ["test", "test"]
    assert by_id[3:] == ["train"] * 4
    assert by_size[2:] == ["val", "test", "val", "train", "train"]
