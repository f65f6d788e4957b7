"""Which molecule a structure is: its bonds by distance, and the keys that tell leaks between splits."""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
from numpy.typing import NDArray
from pyscf.data import elements, nist, radii

from data.structure import Structure

Bonds = NDArray[np.bool_]

BONDED = 1.3  # times the sum of covalent radii: F2 has 1.24
_BONDED_HEAVY = 1.2  # where neither is of the first two rows: Br...I in CHBrI has 1.24
_VALENCES = {1: 1, 5: 4, 6: 4, 7: 4, 8: 3, 9: 1}  # largest numbers of neighbours; other elements have no bound
_BOND_ORDER_STEPS = 20000  # of RDKit's search, which is exponential in conjugated rings; below 1 s
_PROTONS = re.compile(r"/p[^/]*")
_CONNECTIVITY = "/SNon"  # InChI option: no stereo layers


def stretch(structure: Structure) -> NDArray[np.float64]:
    """Distances over the sum of covalent radii (n_atoms, n_atoms), about 1 where there is a bond; infinite on the
    diagonal. Radii of Cordero et al. 2008, `pyscf.data.radii.COVALENT`.
    """
    size = radii.COVALENT[structure.atomic_numbers]
    ratio = np.linalg.norm(structure.positions[:, None] - structure.positions, axis=-1) / (size[:, None] + size)
    np.fill_diagonal(ratio, np.inf)
    return np.asarray(ratio)


def bonds(structure: Structure) -> Bonds:
    """Which pairs (n_atoms, n_atoms) are bonded, by distance: the relatively shortest first, while both atoms have
    valences left, so that the bridgeheads of small rings and a hydrogen between two atoms are told right.
    """
    ratio = stretch(structure)
    free = [_VALENCES.get(int(z), structure.n_atoms) for z in structure.atomic_numbers]
    bonded = np.zeros(ratio.shape, dtype=bool)
    heavy = structure.atomic_numbers > 10
    pairs = np.argwhere(np.triu(ratio < np.where(heavy[:, None] & heavy, _BONDED_HEAVY, BONDED)))
    order = np.argsort(ratio[tuple(pairs.T)].round(9), kind="stable")  # of equal bonds the first, not the last digit's
    for i, j in pairs[order].tolist():
        if free[i] and free[j]:
            bonded[i, j] = bonded[j, i] = True
            free[i] -= 1
            free[j] -= 1
    return bonded


def inchi(structure: Structure) -> str:
    """Key of the molecule: its standard InChI without stereo layers, or `graph_key` where there is none.

    Taken from the SMILES where the structure has one of its own formula, without charged atoms, else from the geometry
    (Lewis structure by RDKit's `DetermineBondOrders`). The same for every frame, and for enantiomers, diastereomers and
    conformers; for tautomers where InChI has it so.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        for molecule in (_from_smiles, _from_geometry):
            mol = molecule(structure)
            key = Chem.MolToInchi(mol, options=_CONNECTIVITY) if mol is not None else ""
            if key:
                return str(key)
    return graph_key(structure)


def inchi_keys(structure: Structure) -> set[str]:
    """InChI by the geometry, without stereo layers; empty where no Lewis structure fits, or only one with fragments of
    opposite charges, as of a broken bond. That of an ion is without the layer of its protons, so that an ion at a
    heteroatom has the key of its neutral molecule.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = _from_geometry(structure)
        if mol is None:
            return set()
        fragments = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
        if sum(abs(Chem.GetFormalCharge(fragment)) for fragment in fragments) > abs(structure.charge):
            return set()
        return _inchi_of(mol, bool(structure.charge))


def smiles_keys(structure: Structure) -> set[str]:
    """As `inchi_keys`, by the SMILES that the structure has, its own or that of the molecule that it is an ion of."""
    from rdkit import Chem, rdBase

    if not structure.smiles:
        return set()
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(structure.smiles)
        if mol is None or composition_of(mol) != composition(structure):
            return set()
        return _inchi_of(mol, bool(Chem.GetFormalCharge(mol)))


def is_inchi(key: str) -> bool:
    """Whether a key is an InChI."""
    return key.startswith("InChI=")


def _inchi_of(mol: object, charged: bool) -> set[str]:
    from rdkit import Chem

    key = str(Chem.MolToInchi(mol, options=_CONNECTIVITY)) if mol is not None else ""
    if charged:
        key = _PROTONS.sub("", key)
    return {key} if key else set()


def composition(structure: Structure) -> str:
    """Heavy atoms, and hydrogens but for the protons of the charge: the same for a molecule and its ions."""
    return _composition(structure.atomic_numbers.tolist(), structure.charge)


def composition_of(mol: object) -> str:
    """As `composition`, of an RDKit molecule."""
    from rdkit import Chem

    atoms = Chem.AddHs(mol).GetAtoms()
    return _composition([atom.GetAtomicNum() for atom in atoms], Chem.GetFormalCharge(mol))


def _composition(numbers: list[int], charge: int) -> str:
    counts = Counter(elements.ELEMENTS[z] for z in numbers if z > 1)
    return "".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts)) + f"+H{numbers.count(1) - charge}"


def graph_key(structure: Structure) -> str:
    """`formula/charge/hash` of the bonds by distance, without bond orders: Weisfeiler and Lehman's colours, as many
    rounds as atoms. Independent of the order of the atoms; the same for every frame. Needs nothing but distances.
    """
    symbols = [elements.ELEMENTS[z] for z in structure.atomic_numbers]
    return f"{formula(structure)}/{structure.charge:+d}/{_graph_hash(symbols, bonds(structure))}"


def skeleton_key(structure: Structure) -> str:
    """As `graph_key`, of the heavy atoms alone; hydrogens as in `composition`. The same for a molecule and its ions."""
    heavy = np.flatnonzero(structure.atomic_numbers > 1)
    symbols = [elements.ELEMENTS[z] for z in structure.atomic_numbers[heavy]]
    return f"{composition(structure)}/{_graph_hash(symbols, bonds(structure)[np.ix_(heavy, heavy)])}"


def _graph_hash(colours: list[str], bonded: Bonds) -> str:
    neighbours = [np.flatnonzero(row).tolist() for row in bonded]
    for _ in colours:
        around = ["".join(sorted(colours[j] for j in row)) for row in neighbours]
        colours = [_digest(f"{own}({others})") for own, others in zip(colours, around, strict=True)]
    return _digest("".join(sorted(colours)))


def formula(structure: Structure) -> str:
    """Sum formula, elements in alphabetical order."""
    counts = Counter(elements.ELEMENTS[z] for z in structure.atomic_numbers)
    return "".join(f"{symbol}{counts[symbol]}" for symbol in sorted(counts))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _from_smiles(structure: Structure) -> object:
    from rdkit import Chem

    if not structure.smiles:
        return None
    mol = Chem.MolFromSmiles(structure.smiles)
    if mol is None or structure.charge or any(atom.GetFormalCharge() for atom in mol.GetAtoms()):
        return None  # where charges belong is ambiguous, so that SMILES and geometry may not agree
    numbers = sorted(atom.GetAtomicNum() for atom in Chem.AddHs(mol).GetAtoms())
    return mol if numbers == sorted(structure.atomic_numbers) else None


def _from_geometry(structure: Structure) -> object:
    """With RDKit's bond orders for our bonds, or None where no Lewis structure fits them."""
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    mol = Chem.RWMol()
    for z in structure.atomic_numbers:
        atom = Chem.Atom(int(z))
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in np.argwhere(np.triu(bonds(structure))).tolist():
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    conformer = Chem.Conformer(structure.n_atoms)
    conformer.SetPositions(structure.positions * nist.BOHR)
    mol.AddConformer(conformer)
    try:
        rdDetermineBonds.DetermineBondOrders(
            mol, charge=structure.charge, embedChiral=False, maxIterations=_BOND_ORDER_STEPS
        )
        Chem.SanitizeMol(mol)
    except (ValueError, RuntimeError):
        return None
    return mol
