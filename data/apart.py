"""Would a set put one molecule into several splits? Asked before any work starts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from data.errors import MoleculeError, SetFileError
from data.identity import composition, composition_of
from data.molecules import molecule_names
from data.run import structures_of
from data.settings import Source, Split
from data.smiles import embed, n_atoms
from data.splits import assign, by_size
from data.structure import Seed, Structure

_MANY = "any"  # the split of a structure in a set that is split at random


@dataclass(frozen=True)
class _Expected:
    """A molecule of a set and the splits that its structures will be in."""

    seed: Seed
    splits: frozenset[str]


def check_split(split: Split, recipes: Sequence[tuple[Source, Seed]]) -> None:
    """Raises SetFileError for a set whose split would part structures of one molecule, unless it is `mixed`.

    A split by molecule keeps them together, whatever their sources. Stereoisomers of QM9 are molecules of their own in
    the official splits, and pass.
    """
    if split.mixed or split.kind in ("train", "molecule") or (split.kind == "random" and not split.val + split.test):
        return
    expected = _expected(split, recipes)
    for one in expected:
        if len(one.splits) > 1:
            raise _refusal(split, f"structures of {one.seed.name}", one.splits)
    groups: dict[str, list[_Expected]] = defaultdict(list)
    for one in expected:
        groups[_composition(one.seed)].append(one)
    for group in groups.values():
        _check_group(split, group)


def _check_group(split: Split, group: Sequence[_Expected]) -> None:
    """Of one composition, but for protons."""
    several = split.kind == "random" or len({name for one in group for name in one.splits}) > 1
    if len(group) < 2 or not several or all(_of_qm9(one.seed) for one in group):
        return
    told = [(one, structure) for one in group if (structure := _sketch(one.seed)) is not None]
    molecules: dict[str, list[_Expected]] = defaultdict(list)
    for (one, _), name in zip(told, molecule_names([structure for _, structure in told]), strict=True):
        molecules[name].append(one)
    for members in molecules.values():
        parts = frozenset(name for one in members for name in one.splits)
        parted = len(parts) > 1 or split.kind == "random"
        if len(members) > 1 and parted and not all(_of_qm9(one.seed) for one in members):
            raise _refusal(split, f"{members[0].seed.name} and {members[1].seed.name}, one molecule,", parts)


def _refusal(split: Split, what: str, parts: frozenset[str]) -> SetFileError:
    where = "several splits" if parts & {_MANY} else " and ".join(sorted(parts))
    return SetFileError(
        f"split.kind {split.kind!r} would put {what} into {where}, so that errors would be those of known molecules. "
        "Write kind = 'molecule', which keeps them together, or remove all but one; or, if it is meant, mixed = true"
    )


def _expected(split: Split, recipes: Sequence[tuple[Source, Seed]]) -> list[_Expected]:
    if split.kind == "random":
        several = frozenset((_MANY, "another"))
        return [_Expected(seed, several if structures_of(s) > 1 else frozenset((_MANY,))) for s, seed in recipes]
    if split.kind == "size":
        return [_Expected(seed, _sizes(split, source, seed)) for source, seed in recipes]
    given = [seed.structure for _, seed in recipes if seed.structure is not None]
    official = iter(assign(split, given))
    # what is not from QM9 trains, a SMILES among it
    return [_Expected(seed, frozenset(("train" if seed.structure is None else next(official),))) for _, seed in recipes]


def _sizes(split: Split, source: Source, seed: Seed) -> frozenset[str]:
    n = n_atoms(seed.smiles) if seed.structure is None else seed.structure.n_atoms
    step = {"": 0, "protonate": 1, "deprotonate": -1}[source.ions]
    sizes = {n + step, n} if source.neutral else {n + step}
    return frozenset(by_size(size, split.train_atoms, split.val_atoms) for size in sizes)


def _of_qm9(seed: Seed) -> bool:
    return seed.structure is not None and seed.structure.gdb_index >= 0


def _composition(seed: Seed) -> str:
    if seed.structure is not None:
        return composition(seed.structure)
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return composition_of(Chem.MolFromSmiles(seed.smiles))


def _sketch(seed: Seed) -> Structure | None:
    """A structure that says which molecule it is; None where a SMILES cannot be embedded, and will fail."""
    if seed.structure is not None:
        return replace(seed.structure, parent=seed.name)
    try:
        return replace(embed(seed, np.random.default_rng(0)), parent=seed.name)
    except MoleculeError:
        return None
