"""What is made of one molecule: embedding, relaxation, ions, snapshots. Runs in a worker; nothing is shared."""

from __future__ import annotations

import dataclasses
import hashlib
import logging

import numpy as np

from data.errors import MoleculeError
from data.identity import BONDED, Bonds, bonds, graph_key, stretch
from data.ions import ions
from data.settings import Source
from data.smiles import embed
from data.structure import Seed, Structure
from data.xtb import relax, snapshots

_LOG = logging.getLogger(__name__)
# Distances over the sum of covalent radii. At 300 K bonds of heavy atoms are seen up to 1.14, of hydrogen up to 1.15; a
# bond of two heavy atoms is broken where it no longer counts as one, and by as much where it was long before (F2).
_STRETCHED = 1.15
_APART, _FORMED = 1.4, 1.15  # no bond even to a shared proton; a bond that was none before


def prepare(seed: Seed, source: Source) -> list[Structure]:
    """The geometries that a source asks for of one molecule, to be labelled.

    A SMILES is embedded and always relaxed with GFN2-xTB, as force fields are no geometries to label; a geometry only
    with `source.relax`. Names: `{name}_eq0` that geometry, `{name}_ionp{i}_eq0` and `{name}_ionm{i}_eq0` its ions with
    a proton more and less at atom i, from 0; their snapshots end in `_md1`, `_md2` and so on, and start from the
    relaxed geometry also where that itself is not kept. `parent` is the seed's name, frame the number of the snapshot.

    The same seed and source give the same structures, whichever others there are. Raises MoleculeError with the reason
    where a step fails or breaks bonds; an ion that does is replaced by one at another site. A proton that moves within
    the molecule is accepted and logged, and the structure's `smiles` is then empty. A molecule without a site for an
    ion, or a single atom without snapshots, is no failure unless nothing is left.
    """
    given = seed.structure if seed.structure is not None else embed(seed, generator(source, seed, "embed"))
    given = dataclasses.replace(given, parent=seed.name, frame=0)
    relaxed = _relaxed(given) if seed.structure is None or source.relax else given
    structures = []
    if source.neutral or not source.ions:
        structures += _with_frames(relaxed, f"{seed.name}", seed, source)
    if source.ions:
        structures += _ions(relaxed, seed, source)
    if not structures:
        raise MoleculeError(f"{seed.name}: no atom to {source.ions}; set neutral = true to keep the molecule itself")
    return structures


def generator(source: Source, seed: Seed, what: str) -> np.random.Generator:
    """Random numbers for one purpose (`what`) in one molecule: by SHA-256 of the source's seed and the name."""
    digest = hashlib.sha256(f"{source.seed}:{seed.name}:{what}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def change(before: Structure, after: Structure) -> str:
    """What became of the bonds of `before` in `after`, the same atoms elsewhere: empty if nothing or only a proton
    moved, else why they are no longer one and the same molecule.
    """
    bonded, ratio_before, ratio = bonds(before), stretch(before), stretch(after)
    heavy = before.atomic_numbers > 1
    both = heavy[:, None] & heavy
    if (both & bonded & (ratio > np.maximum(BONDED, _STRETCHED * ratio_before))).any():
        return "a bond broke"
    if (both & ~bonded & (ratio_before > _APART) & (ratio < _FORMED)).any():
        return "a new bond formed"
    if (bonded.any(axis=1) & (ratio.min(axis=1) > _APART)).any():
        return "an atom flew off"
    loose, loose_before = _fragments(ratio < _APART), _fragments(bonded)
    return "it fell apart" if loose > loose_before else ""


def _fragments(bonded: Bonds) -> int:
    from scipy.sparse.csgraph import connected_components

    return int(connected_components(bonded, directed=False)[0])


def _relaxed(structure: Structure) -> Structure:
    relaxed = relax(structure)
    if reason := change(structure, relaxed):
        raise MoleculeError(f"{structure.name}: {reason} in the relaxation with GFN2-xTB")
    return _marked(structure, relaxed)


def _marked(before: Structure, after: Structure) -> Structure:
    """`after`; where a proton moved, without the SMILES, which is no longer its own."""
    if graph_key(before) == graph_key(after):
        return after
    _LOG.info("%s: a proton moved in the relaxation with GFN2-xTB", after.name)
    return dataclasses.replace(after, smiles="")


def _with_frames(structure: Structure, name: str, seed: Seed, source: Source) -> list[Structure]:
    """A geometry and its snapshots; they start from the relaxed one."""
    structure = dataclasses.replace(structure, name=f"{name}_eq0")
    structures = [structure]
    if source.frames and structure.n_atoms > 1:
        start = _relaxed(structure)
        rng = generator(source, seed, f"{name}:frames")
        frames = snapshots(start, source.frames, source.temperature, source.interval, rng)
        for k, positions in enumerate(frames, start=1):
            frame = start.moved(positions, name=f"{name}_md{k}", frame=k)
            if reason := change(start, frame):
                raise MoleculeError(f"{frame.name}: {reason} at {source.temperature:g} K; lower source.temperature")
            structures.append(frame)
    return structures


def _ions(parent: Structure, seed: Seed, source: Source) -> list[Structure]:
    """Ions with their snapshots, at up to `source.sites` sites; sites that fail are passed over, as are those that
    give an ion of the same bonds again.
    """
    structures: list[Structure] = []
    reasons: list[str] = []
    found: set[str] = set()
    for site, start in ions(parent, source.ions, generator(source, seed, "ions")):
        name = f"{seed.name}_ion{'p' if source.ions == 'protonate' else 'm'}{site}"
        try:
            ion = _relaxed(dataclasses.replace(start, name=name))
            key = graph_key(ion)
            if key in found:
                continue
            structures += _with_frames(ion, name, seed, source)
        except MoleculeError as error:
            _LOG.info("%s", error)
            reasons.append(str(error))
            continue
        found.add(key)
        if len(found) == source.sites:
            break
    if not structures and reasons and not source.neutral:
        raise MoleculeError(f"{seed.name}: no ion holds together; the first: {reasons[0]}")
    return structures
