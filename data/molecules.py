"""Which structures are of one molecule, whatever files, names or sources they come from.

Known is what a source says: a parent, or a QM9 index. Found is what the structures say: the same InChI without stereo
layers, or the same bonds by distance. Ions belong to the molecule that they are a proton more or less of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from data.identity import composition, graph_key, inchi_keys, is_inchi, skeleton_key, smiles_keys
from data.structure import Structure


def known_names(structures: Sequence[Structure]) -> list[str]:
    """Name of the molecule that each structure belongs to by what its source says: the first parent, by the alphabet,
    of those linked with it. Structures are linked by the same parent, and by the same QM9 index.
    """
    indices = [f"qm9 {s.gdb_index}" if s.gdb_index >= 0 else "" for s in structures]
    return _linked([s.parent for s in structures], [{key} if key else set() for key in indices])


def molecule_names(structures: Sequence[Structure]) -> list[str]:
    """As `known_names`, where structures are also linked that are found to be of one molecule.

    Only structures of one composition, but for the protons of ions, are compared, and only those that their sources
    do not link. Where no Lewis structure fits, as in a frame with a broken bond, all structures of the same sum formula
    and charge are taken for one molecule: rather one too few than a leak. An ion of unknown parent whose InChI is
    that of no neutral molecule belongs to all that have its heavy atoms and the bonds between them.
    """
    known = known_names(structures)
    groups: dict[str, list[int]] = defaultdict(list)
    for k, s in enumerate(structures):
        groups[composition(s)].append(k)
    keys: list[set[str]] = [set() for _ in structures]
    for group in groups.values():
        if len({known[k] for k in group}) > 1:
            told = _tellers(structures, group)
            neutral = {known[k] for k in group if not structures[k].charge}
            found = _keys([structures[k] for k in told], [known[k] in neutral for k in told])
            for k, own in zip(told, found, strict=True):
                keys[k] = own
    return _linked(known, keys)


def divided(structures: Sequence[Structure], splits: Sequence[str]) -> list[tuple[str, set[str]]]:
    """(molecule, its splits) for each that has several; by its InChI, or its bonds where it has none."""
    # what hangs together by names and compositions in one split needs no closer look
    reach = _linked(known_names(structures), [{composition(s)} for s in structures])
    parts: dict[str, set[str]] = defaultdict(set)
    for group, split in zip(reach, splits, strict=True):
        parts[group].add(split)
    chosen = [k for k, group in enumerate(reach) if len(parts[group]) > 1]
    found: dict[str, list[int]] = defaultdict(list)
    for k, name in zip(chosen, molecule_names([structures[k] for k in chosen]), strict=True):
        found[name].append(k)
    return [
        (_label([structures[k] for k in members]), {splits[k] for k in members})
        for members in found.values()
        if len({splits[k] for k in members}) > 1
    ]


def _label(structures: Sequence[Structure]) -> str:
    s = min(structures, key=lambda s: (s.charge != 0, s.frame, s.name))
    return next(iter(sorted(filter(is_inchi, inchi_keys(s)))), graph_key(s))


def _linked(names: Sequence[str], keys: Iterable[set[str]]) -> list[str]:
    """The first name, by the alphabet, of those linked with each by names and keys in common."""
    nodes: dict[tuple[str, str], int] = {}
    links = []
    for name, own in zip(names, keys, strict=True):
        at = nodes.setdefault(("name", name), len(nodes))
        links += [(at, nodes.setdefault(("key", key), len(nodes))) for key in own]
    rows, columns = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_matrix((np.ones(len(links)), (rows, columns)), shape=(len(nodes), len(nodes)))
    component = connected_components(graph, directed=False)[1] if nodes else np.empty(0, dtype=np.int64)
    first: dict[int, str] = {}
    for name in sorted(set(names)):
        first.setdefault(int(component[nodes["name", name]]), name)
    return [first[int(component[nodes["name", name]])] for name in names]


def _tellers(structures: Sequence[Structure], group: Sequence[int]) -> list[int]:
    """Which structures say what the molecules of a group are: snapshots are told by what they start from."""
    starts = {(structures[k].parent, structures[k].charge) for k in group if structures[k].frame == 0}
    return [k for k in group if structures[k].frame == 0 or (structures[k].parent, structures[k].charge) not in starts]


def _keys(structures: Sequence[Structure], placed: Sequence[bool]) -> list[set[str]]:
    """Keys of structures of one composition: those of one molecule hang together by keys in common.

    placed: whether a neutral structure of the same molecule is known, so that an ion needs no other.
    """
    graphs = [graph_key(s) for s in structures]
    first = dict(zip(reversed(graphs), reversed(structures), strict=True))
    by_graph = {key: inchi_keys(s) for key, s in first.items()}  # bond orders are of bonds and charge alone
    found = [{key} | by_graph[key] | smiles_keys(s) for key, s in zip(graphs, structures, strict=True)]
    # sum formulas of which some structure has no Lewis structure, and heavy atoms of which some ion has no parent
    vague = {_formula(graph) for graph, own in zip(graphs, found, strict=True) if not any(map(is_inchi, own))}
    neutral = {key for s, own in zip(structures, found, strict=True) if not s.charge for key in own}
    stray = {
        skeleton_key(s)
        for s, own, has_parent in zip(structures, found, placed, strict=True)
        if s.charge and s.gdb_index < 0 and not has_parent and not own & neutral
    }
    for s, own, graph in zip(structures, found, graphs, strict=True):
        if _formula(graph) in vague:
            own.add(_formula(graph))
        if stray and (skeleton := skeleton_key(s)) in stray:
            own.add(skeleton)
    return found


def _formula(graph: str) -> str:
    """Sum formula and charge, of a key of the bonds."""
    return graph.rsplit("/", 1)[0]
