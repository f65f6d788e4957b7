"""Geometries from files: XYZ, extended XYZ, SDF and ASE databases."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from io import StringIO
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
from pyscf.data import nist

from data.errors import MoleculeError, SetFileError
from data.identity import stretch
from data.settings import Source
from data.smiles import check_graph
from data.structure import MOST_ATOMS, Array, Structure

Named = tuple[str, Structure]  # the name that the file gives it, or empty

_UNSAFE = re.compile(r"[^\w.+-]+")  # letters and digits of every script are kept
_NOBLE = (2, 10, 18, 36, 54, 86)
# Over the sum of covalent radii, bonds are 0.77 (N2) to 1.25 (F2): the wrong unit makes them 0.66 at most, or 1.45 and
# more.
_SHORT, _LONG = 0.7, 1.4
_SHOWN = 60  # letters of a line in a message
_ACTINIDES = 89  # U=O has 0.67
_LARGEST_CHARGE = 1000
_WHOLE = 1e-3  # of a sum of partial charges
_CHARGE = re.compile(r"\b(total_)?charge\b", re.IGNORECASE)
_LARGE = re.compile(r"[0-9]{4}")  # ASE makes room for as many columns as a line claims
_COLUMNS = re.compile(r"\bproperties\s*=\s*(\"[^\"]*\"|\S+)", re.IGNORECASE)  # one may be of partial charges


def read_xyz(path: Path, source: Source) -> list[Named]:
    """All frames of an XYZ or extended XYZ file; blank lines may stand between them. A frame's charge is `charge` or
    `total_charge`, in letters of either case, of its comment line, else the source's. Raises SetFileError that names
    the frame, also for a comment line that mentions a charge in another form, as `charge: 2`.
    """
    found: list[Named] = []
    for k, (atoms, comment) in enumerate(_xyz_frames(path), start=1):
        where = f"{path}, frame {k}"
        # a word without a value is True
        stated = _by_lower_case({key: value for key, value in atoms.info.items() if not isinstance(value, bool)}, where)
        if not {"charge", "total_charge"} & set(stated) and _CHARGE.search(_COLUMNS.sub("", comment)):
            raise SetFileError(
                f"{where}: its comment line mentions a charge, but not as `charge=2` ({_short(comment)}); write it so, "
                "or take the word out"
            )
        charge = _stated_charge(stated, source.charge, where)
        if stated.get("multiplicity", stated.get("spin_multiplicity", 1)) != 1:
            raise SetFileError(f"{where}: an open shell by its comment line; labels are of closed shells")
        unit = nist.BOHR if source.unit == "angstrom" else 1.0
        hint = "give it an even number by `charge=` in its comment line, or by source.charge"
        structure = _structure(path.stem, atoms, atoms.get_positions() / unit, charge, where, hint)
        _check_unit(structure, where, f"is source.unit = {source.unit!r} right?")
        found.append(("", structure))
    return found


def read_ase(path: Path, source: Source) -> list[Named]:
    """All rows of an ASE database (.json, .db), in their order. A row's name is its key `name`; its charge the key
    `charge` or `total_charge`, in letters of either case, else the sum of its initial charges where it has them, else
    the source's.
    """
    found: list[Named] = []
    for row in _ase_rows(path):
        where = f"{path}, row {row.id}"
        # the row's own property `charge` hides a key of that name
        keys = _by_lower_case({key: vars(row)[key] for key in row.key_value_pairs}, where)
        default: object = source.charge
        if row.get("initial_charges") is not None:
            default = float(np.sum(row.initial_charges))
        charge = _stated_charge(keys, default, where)
        hint = "give it an even number by its key `total_charge`, or by source.charge"
        atoms = row.toatoms()
        structure = _structure(path.stem, atoms, atoms.get_positions() / nist.BOHR, charge, where, hint)
        _check_unit(structure, where, "positions of ASE are in angstrom")
        found.append((str(keys.get("name", "")), structure))
    return found


def read_sdf(path: Path) -> list[Named]:
    """All entries of an SD file, which must have three-dimensional positions and every hydrogen. Named by their titles;
    charges are the sums of formal charges; `smiles` is that of the file's bonds.
    """
    from rdkit import Chem, rdBase

    _check_file(path)
    found: list[Named] = []
    with rdBase.BlockLogs():
        try:
            supplier = Chem.SDMolSupplier(str(path), removeHs=False)
            mols: Iterator[Any] = iter(supplier)
        except (OSError, RuntimeError) as error:
            raise SetFileError(f"{path}: not an SD file that can be read ({_said(error)})") from None
        for k, mol in enumerate(mols, start=1):
            where = f"{path}, entry {k}"
            if mol is None or not mol.GetNumAtoms():
                raise SetFileError(f"{where}: RDKit cannot read it; are its valences and charges right?")
            check_graph(mol, where)
            if not mol.GetNumConformers() or (mol.GetNumAtoms() > 1 and not mol.GetConformer().Is3D()):
                raise SetFileError(
                    f"{where}: a drawing, not a geometry in space; embed it with another program, or give its SMILES "
                    f"({Chem.MolToSmiles(mol)}) to a source of kind 'smiles'"
                )
            if missing := sum(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
                raise SetFileError(f"{where}: {missing} hydrogens are not in the file; add them with positions")
            found.append((mol.GetProp("_Name"), _of_mol(path.stem, mol, where)))
    return found


def named(found: list[Named], stem: str) -> list[Named]:
    """With a name each: its own; its own and `_k`, k from 1, where several have it; the file's stem where it has none,
    with `_k` in a file of several.
    """
    own = [safe_name(name) for name, _ in found]
    often = Counter(own)
    names = []
    for k, (name, (_, structure)) in enumerate(zip(own, found, strict=True), start=1):
        alone = often[name] == 1 if name else len(found) == 1
        base = name or safe_name(stem) or "mol"
        names.append((base if alone else f"{base}_{k}", structure))
    return names


def safe_name(name: str) -> str:
    """Letters and digits of any script and `_.+-` only, with a letter, digit or `+` to begin with."""
    return _UNSAFE.sub("_", unicodedata.normalize("NFC", name)).strip("_").lstrip("._-")


def _xyz_frames(path: Path) -> Iterator[tuple[Any, str]]:
    """ASE's `Atoms` and the comment line of each frame, with errors that name the frame. Blank lines between frames
    are skipped, where ASE takes the first of them for the end of the file.
    """
    import ase.io

    k = 0
    for k, (line, block) in enumerate(_xyz_blocks(path), start=1):
        where = f"{path}, frame {k} (line {line})"
        if len(block) - 2 > MOST_ATOMS or _LARGE.search(" ".join(_COLUMNS.findall(block[1]))):
            raise SetFileError(
                f"{where}: more atoms than can be labelled ({MOST_ATOMS}), or more columns than there are"
            )
        try:
            atoms = ase.io.read(StringIO("\n".join(block) + "\n"), index=0, format="extxyz")
        except KeyError as error:
            raise SetFileError(f"{where}: unknown element {error}; write the symbols of elements") from None
        except Exception as error:  # noqa: BLE001  (whatever the reader meets)
            reason = _said(error).removeprefix("ase.io.extxyz: ")
            raise SetFileError(f"{where}: not in XYZ format ({reason})") from None
        yield atoms, block[1].strip()
    if not k:
        raise SetFileError(f"{path}: holds no frames, only blank lines")


def _xyz_blocks(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The number of the first line, from 1, and the lines of each frame: count, comment, atoms and cell vectors."""
    _check_file(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SetFileError(f"{path}: not a text file that can be read ({_said(error)})") from None
    start = k = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        k += 1
        where = f"{path}, frame {k} (line {start + 1}): not in XYZ format"
        header = lines[start].strip()
        n = int(header) if re.fullmatch(r"\+?[0-9]{1,9}", header) else 0
        if n == 0:
            raise SetFileError(f"{where} ({_short(header)} instead of a number of atoms)")
        end = start + 2 + n
        given = sum(1 for _ in takewhile(str.strip, lines[start + 2 : end]))
        if given < n:
            raise SetFileError(f"{where} ({given} atoms, expected {n})")
        while end < len(lines) and lines[end].lstrip().startswith("VEC"):
            end += 1
        yield start + 1, lines[start:end]
        start = end


def _ase_rows(path: Path) -> list[Any]:
    import ase.db

    _check_file(path)
    try:
        return list(ase.db.connect(path).select(sort="id"))
    except Exception as error:  # noqa: BLE001  (whatever the database's own reader meets)
        raise SetFileError(f"{path}: not an ASE database that can be read ({_said(error)})") from None


def _of_mol(name: str, mol: Any, where: str) -> Structure:
    from rdkit import Chem

    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    try:
        structure = Structure(
            name=name,
            atomic_numbers=numbers,
            positions=mol.GetConformer().GetPositions() / nist.BOHR,
            charge=Chem.GetFormalCharge(mol),
            smiles=Chem.MolToSmiles(Chem.RemoveHs(mol)),
        )
    except MoleculeError as error:
        raise SetFileError(f"{where}: {_said(error, name)}") from None
    _check_unit(structure, where, "positions of SD files are in angstrom")
    return structure


def _structure(name: str, atoms: Any, positions: Array, charge: int, where: str, hint: str) -> Structure:
    if atoms.pbc.any():
        raise SetFileError(f"{where}: periodic; labels are of molecules, remove the cell")
    if not atoms.numbers.all():
        raise SetFileError(f"{where}: unknown element 'X'; write the symbols of elements")
    if len(atoms) and (atoms.numbers.sum() - charge) % 2:
        n = int(atoms.numbers.sum()) - charge
        raise SetFileError(f"{where}: {n} electrons at charge {charge}; labels are of closed shells, {hint}")
    try:
        return Structure(name, atoms.numbers.astype(np.int64), positions, charge)
    except MoleculeError as error:
        raise SetFileError(f"{where}: {_said(error, name)}") from None


def _check_unit(structure: Structure, where: str, hint: str) -> None:
    """By the nearest atom of each: bonds of half or twice the usual length are angstrom taken for bohr or the reverse.
    Two atoms alone may be apart, as in a scan of a bond.
    """
    numbers = set(structure.atomic_numbers.tolist())
    if structure.n_atoms == 1 or numbers <= set(_NOBLE) or max(numbers) >= _ACTINIDES:
        return
    nearest = stretch(structure).min(axis=1)
    if nearest.max() < _SHORT:
        raise SetFileError(f"{where}: all bonds are far too short, as of angstrom read as bohr; {hint}")
    if structure.n_atoms > 2 and nearest.min() > _LONG:
        raise SetFileError(f"{where}: no atom is within a bond of another, as of bohr read as angstrom; {hint}")


def _by_lower_case(stated: dict[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in stated.items():
        if key.lower() in found and key.lower() in ("charge", "total_charge"):
            raise SetFileError(f"{where}: {key.lower()!r} is stated twice; remove one")
        found[key.lower()] = value
    return found


def _stated_charge(stated: dict[str, Any], default: object, where: str) -> int:
    value = stated.get("charge", stated.get("total_charge", default))
    try:
        charge = round(float(value))
        whole = abs(float(value) - charge) < _WHOLE
    except (TypeError, ValueError, OverflowError):
        whole = False
    if not whole or abs(charge) > _LARGEST_CHARGE:
        raise SetFileError(f"{where}: the charge {value} is not an integer, or no charge of a molecule")
    return charge


def _check_file(path: Path) -> None:
    """Raises SetFileError where a path is no file, or an empty one."""
    try:
        found = path.is_file()
    except ValueError:  # NUL in its name
        found = False
    if not found:
        raise SetFileError(f"{path}: no such file; paths are relative to the set file")
    if not path.stat().st_size:
        raise SetFileError(f"{path}: empty")


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _said(error: Exception, name: str = "") -> str:
    text = " ".join(str(error).split()).removeprefix(f"{name}: ")
    return text or type(error).__name__
