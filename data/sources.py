"""The molecules that a set file names, read and checked before any work starts."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np

from data import qm9
from data.errors import SetFileError
from data.files import Named, named, read_ase, read_sdf, read_xyz, safe_name
from data.settings import SetFile, Source
from data.smiles import check_smiles, n_atoms, read_smiles, split_name
from data.structure import Seed
from data.xtb import HEAVIEST

_ION = re.compile(r"_ion[pm]\d+$")  # as `data.prepare` names ions


def read_sources(set_file: SetFile) -> list[tuple[Source, Seed]]:
    """All molecules of a set, with the source of each, in the order of the set file.

    A name that an earlier source has is followed by `_s2` in the second source, `_s3` in the third. Raises
    SetFileError as `read_source`, and for a set without molecules.
    """
    found: list[tuple[Source, Seed]] = []
    taken: set[str] = set()
    for number, source in enumerate(set_file.source, start=1):
        seeds = read_source(source, set_file.folder)
        if taken:
            seeds = [_renamed(seed, f"{seed.name}_s{number}") if seed.name in taken else seed for seed in seeds]
        _check_names([*(seed.name for _, seed in found), *(seed.name for seed in seeds)])
        taken.update(seed.name for seed in seeds)
        found += [(source, seed) for seed in seeds]
    if not found:
        raise SetFileError("the set is empty; give at least one [[source]]")
    return found


def read_source(source: Source, folder: Path) -> list[Seed]:
    """The molecules of one source, in its order; nothing is embedded or relaxed. folder: what `source.files` are
    relative to.

    Names are unique in the source and safe in file names and CSV: the one that the file gives, cleaned; else `mol0001`
    and so on (smiles), the stem of the file and `_k` (xyz, sdf, ase), the index in six digits (qm9). `source.count`
    draws after `source.max_atoms` has sorted out, and keeps the order; a larger count adds to the draw.

    Raises SetFileError that names the file and line, frame, entry or row of the first that cannot be used: unreadable,
    an open shell, an unknown element, positions in another unit, two of one name, SMILES of several molecules.
    """
    _check_settings(source)
    found = [(seed, seed.name) for seed in _read_qm9(source)] if source.kind == "qm9" else _read(source, folder)
    seeds = [seed for seed, _ in found]
    if not seeds:
        raise SetFileError(f"the source of kind {source.kind!r} ({_what(source)}) holds no molecules")
    _check_names([seed.name for seed in seeds], [own for _, own in found])
    if source.relax or source.frames or source.ions:
        for seed in seeds:
            if seed.structure is not None and seed.structure.atomic_numbers.max() > HEAVIEST:
                raise SetFileError(
                    f"{seed.name} holds an element beyond {HEAVIEST}, which GFN2-xTB does not have; give it to a "
                    "source without relax, frames and ions"
                )
    return seeds


def _read(source: Source, folder: Path) -> list[tuple[Seed, str]]:
    """With the name of each before it was made safe."""
    if source.kind == "smiles":
        seeds = _read_smiles(source, folder)
    else:
        seeds = []
        for file in source.files:
            path = folder / file
            read = _read_geometries(path, source)
            for (own, _), (name, structure) in zip(read, named(read, path.stem), strict=True):
                seed = Seed(name, structure=dataclasses.replace(structure, name=name, parent=name))
                seeds.append((seed, own or path.stem))
    if not seeds:
        return []
    if source.max_atoms:
        seeds = [(seed, own) for seed, own in seeds if _size(seed) <= source.max_atoms]
    return [seeds[k] for k in _chosen(len(seeds), source)]


def _read_geometries(path: Path, source: Source) -> list[Named]:
    if source.kind == "xyz":
        return read_xyz(path, source)
    return read_ase(path, source) if source.kind == "ase" else read_sdf(path)


def _read_smiles(source: Source, folder: Path) -> list[tuple[Seed, str]]:
    entries = []
    for k, text in enumerate(source.smiles, start=1):
        smiles, name = split_name(text)
        check_smiles(smiles, f"source.smiles, entry {k}")
        entries.append((smiles, name))
    for file in source.files:
        entries += read_smiles(folder / file)
    return [
        (Seed(safe_name(name) or f"mol{k:04d}", smiles=smiles), name)
        for k, (smiles, name) in enumerate(entries, start=1)
    ]


def _read_qm9(source: Source) -> list[Seed]:
    table = qm9.scan(source.indices)
    if source.indices:
        table = table.select(source.indices)
    if source.max_atoms:
        table = dataclasses.replace(table, lines=table.lines[table.lines["n_atoms"] <= source.max_atoms])
    return dataclasses.replace(table, lines=table.lines[_chosen(len(table.lines), source)]).seeds()


def _chosen(n: int, source: Source) -> list[int]:
    """Which of n molecules are drawn, in order; all of them without `source.count`. A larger count keeps those of a
    smaller one.
    """
    limit = f"of at most {source.max_atoms} atoms " if source.max_atoms else ""
    if n == 0:
        raise SetFileError(f"the source of kind {source.kind!r} ({_what(source)}) holds no molecule {limit}")
    if n < source.count:
        raise SetFileError(f"source.count is {source.count}, but {_what(source)} holds {n} molecules {limit}only")
    if not source.count:
        return list(range(n))
    drawn = np.random.default_rng(source.seed).permutation(n)[: source.count]
    return [int(k) for k in np.sort(drawn)]


def _check_settings(source: Source) -> None:
    if source.charge and source.kind not in ("xyz", "ase"):
        raise SetFileError(f"source.charge means nothing for kind {source.kind!r}, which states charges; remove it")
    if source.unit != "angstrom" and source.kind != "xyz":
        raise SetFileError(f"source.unit means nothing for kind {source.kind!r}, which is in angstrom; remove it")


def _check_names(names: list[str], own: list[str] | None = None) -> None:
    """own: as the file gives them, before they were made safe."""
    known: dict[str, str] = {}
    for name, before in zip(names, own or names, strict=True):
        if name in known:
            pair = (known[name], before)
            changed = pair[0] != pair[1] and any(safe_name(text) != text for text in pair)
            why = f" once characters that do not go into file names are left out of {pair[0]!r} and {pair[1]!r}"
            raise SetFileError(
                f"two molecules are named {name!r}{why if changed else ''}; rename one, or a file that they are named "
                "after"
            )
        known[name] = before
    for name in names:
        if _ION.sub("", name) != name and _ION.sub("", name) in known:
            raise SetFileError(f"the name {name!r} is that of an ion of {_ION.sub('', name)!r}; rename one")


def _renamed(seed: Seed, name: str) -> Seed:
    if seed.structure is None:
        return dataclasses.replace(seed, name=name)
    return Seed(name, structure=dataclasses.replace(seed.structure, name=name, parent=name))


def _size(seed: Seed) -> int:
    return n_atoms(seed.smiles) if seed.structure is None else seed.structure.n_atoms


def _what(source: Source) -> str:
    files = ", ".join(source.files)
    return files or ("QM9" if source.kind == "qm9" else "source.smiles")
