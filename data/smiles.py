"""SMILES: read, checked, and embedded in space, by RDKit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pyscf.data import nist

from data.errors import MoleculeError, SetFileError
from data.structure import MOST_ATOMS, Seed, Structure
from data.xtb import HEAVIEST

_LONGEST = 10 * MOST_ATOMS  # characters; RDKit's time grows with them
_MAX_ITERATIONS = 2000  # of the force field; it only has to come close to where GFN2-xTB takes over


def read_smiles(path: Path) -> list[tuple[str, str]]:
    """(SMILES, name) of every line of a file; the name is what follows the SMILES after a blank, or empty. Empty lines
    and lines that start with `#` are skipped; raises SetFileError where the file cannot be read.
    """
    try:
        if path.exists() and not path.is_file():  # a device, which may have no end
            raise SetFileError(f"{path}: not a file")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise SetFileError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise SetFileError(f"{path}: not a text file; write one SMILES a line, a name may follow it") from None
    except ValueError as error:  # NUL in its name
        raise error if isinstance(error, SetFileError) else SetFileError(f"{path}: cannot be read ({error})") from None
    entries = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            smiles, name = split_name(line)
            check_smiles(smiles, f"{path}, line {number}")
            entries.append((smiles, name))
    return entries


def split_name(text: str) -> tuple[str, str]:
    """SMILES and name, which any white space parts; either may be empty."""
    smiles, name, *_ = [*text.split(maxsplit=1), "", ""]
    return smiles, name.strip()


def check_smiles(smiles: str, where: str) -> None:
    """Raise SetFileError, which names the SMILES and `where` it stands, for one that no label can be made of."""
    from rdkit import Chem, rdBase

    if len(smiles) > _LONGEST:
        raise SetFileError(f"{where}: a SMILES of {len(smiles)} characters; molecules have at most {MOST_ATOMS} atoms")
    what = f"{where}: the SMILES {smiles!r}"
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            raise SetFileError(f"{what} cannot be read ({_problem(smiles)})")
    if not mol.GetNumAtoms():
        raise SetFileError(f"{where}: the SMILES is empty")
    check_graph(mol, what)
    if (n := Chem.AddHs(mol).GetNumAtoms()) > MOST_ATOMS:
        raise SetFileError(f"{what} has {n} atoms, more than can be labelled ({MOST_ATOMS})")
    fragments = len(Chem.GetMolFrags(mol))
    if fragments > 1:
        raise SetFileError(
            f"{what} holds {fragments} molecules, and a SMILES does not say how they lie; give separate SMILES, "
            "or the complex by its geometry (xyz, sdf)"
        )
    if heavy := [atom.GetSymbol() for atom in mol.GetAtoms() if atom.GetAtomicNum() > HEAVIEST]:
        raise SetFileError(f"{what} holds {heavy[0]}, which GFN2-xTB cannot relax; give a geometry (xyz, sdf)")


def check_graph(mol: Any, what: str) -> None:
    """Raise SetFileError, which starts with `what`, for radicals and unknown elements in an RDKit molecule."""
    if any(atom.GetAtomicNum() == 0 for atom in mol.GetAtoms()):
        raise SetFileError(f"{what} holds an unknown element ('*'); name every atom")
    if n := sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        raise SetFileError(f"{what} is a radical ({n} unpaired electrons); labels are of closed shells, remove it")


def n_atoms(smiles: str) -> int:
    """Number of atoms, hydrogens included, of a SMILES that can be read."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        return int(Chem.AddHs(Chem.MolFromSmiles(smiles)).GetNumAtoms())


def embed(seed: Seed, rng: np.random.Generator) -> Structure:
    """A conformer of a SMILES: ETKDGv3 (Wang et al., J. Chem. Inf. Model. 2020, 60, 2044), then MMFF94s, or UFF where
    that has no parameters. One conformer, drawn by `rng`, not the lowest. Stereo centres that the SMILES leaves open
    are drawn too. Raises MoleculeError where RDKit finds none.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom

    with rdBase.BlockLogs():
        mol = Chem.AddHs(Chem.MolFromSmiles(seed.smiles))
        settings: Any = rdDistGeom.ETKDGv3()
        settings.randomSeed = int(rng.integers(1, 2**31 - 1))
        if rdDistGeom.EmbedMolecule(mol, settings) < 0:
            settings.useRandomCoords = True
            if rdDistGeom.EmbedMolecule(mol, settings) < 0:
                raise MoleculeError(f"{seed.name}: RDKit finds no geometry for {seed.smiles}; give one (xyz, sdf)")
        _clean(mol)
    return Structure(
        name=seed.name,
        atomic_numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
        positions=mol.GetConformer().GetPositions() / nist.BOHR,
        charge=Chem.GetFormalCharge(mol),
        smiles=seed.smiles,
    )


def _clean(mol: Any) -> None:
    from rdkit.Chem import rdForceFieldHelpers

    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.MMFFOptimizeMolecule(mol, mmffVariant="MMFF94s", maxIters=_MAX_ITERATIONS)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        rdForceFieldHelpers.UFFOptimizeMolecule(mol, maxIters=_MAX_ITERATIONS)


def _problem(smiles: str) -> str:
    """What RDKit says of a SMILES that it refuses."""
    from rdkit import Chem

    mol = Chem.MolFromSmiles(smiles, sanitize=False)
    problems = Chem.DetectChemistryProblems(mol) if mol is not None else ()
    return str(problems[0].Message()) if problems else "it is not written as a SMILES is"
