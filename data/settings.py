"""Set files: what to label, how, and into which splits; read from TOML and checked before any work starts.

Tables `[theory]`, `[labels]` and `[split]`, and any number of `[[source]]`; their keys are the fields of the classes
below. `data/sets/smoke.toml` is an example.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from data.errors import SetFileError
from pyscf_tracegrad.config import from_dict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

KINDS = ("smiles", "xyz", "sdf", "ase", "qm9")
UNITS = ("angstrom", "bohr")
SPLITS = ("train", "random", "molecule", "size", "qh9-id", "qh9-ood")
IONS = ("", "protonate", "deprotonate")
_MOST = 1_000_000  # of what one molecule has; more is a slip of the pen


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SetFileError(message)


@dataclass(frozen=True)
class TheoryLevel:
    """Level of theory: any functional (or `hf`) and basis by PySCF's names; grid_level: PySCF's, 0 to 9."""

    xc: str = "b3lyp"
    basis: str = "def2-svp"
    grid_level: int = 3

    def __post_init__(self) -> None:
        _require(bool(self.xc.strip() and self.basis.strip()), "theory.xc and theory.basis must not be empty")
        _require(0 <= self.grid_level <= 9, f"theory.grid_level is 0 to 9, not {self.grid_level}")


@dataclass(frozen=True)
class LabelSettings:
    """How a label is made.

    exact: by a plain run instead of the fast recipe; the same Fock matrix, in two to three times the time.
    gradient: largest norm of the orbital gradient, hartree; both recipes agree to about 0.7 of it in every element of
    the Fock matrix. minutes: time limit of one label. memory: MB that one worker may use for it. cycles_minao: also
    count the cycles of a plain run from minao; costs more than a fast label, and nothing with `exact`.
    """

    exact: bool = False
    gradient: float = 1e-6
    minutes: float = 60.0
    memory: int = 4000
    cycles_minao: bool = False

    def __post_init__(self) -> None:
        _require(1e-9 <= self.gradient <= 1e-2, f"labels.gradient is 1e-9 to 1e-2, not {self.gradient}")
        _require(0 < self.minutes < math.inf, f"labels.minutes must be positive, not {self.minutes}")
        _require(self.memory >= 500, f"labels.memory is in MB and at least 500, not {self.memory}")


@dataclass(frozen=True)
class Source:
    """Where molecules come from, and what is made of each.

    kind: smiles, xyz (XYZ and extended XYZ, any number of frames a file), sdf, ase (an ASE database) or qm9.
    smiles: SMILES strings. files: paths, relative to the set file; of SMILES, one a
    line, a name may follow it.
    unit: of the positions in xyz files. charge: net charge of the molecules that do not state one (xyz, ase).
    indices: QM9 indices (1 to 133885). count: so many, drawn with `seed` from what the rest names; 0: all of it.
    max_atoms: only molecules of at most so many atoms; 0: any.
    relax: relax each with GFN2-xTB first. frames: snapshots of each besides its geometry, from Langevin dynamics with
    GFN2-xTB at `temperature` kelvin, `interval` femtoseconds apart. ions: make the closed-shell ions, `protonate` or
    `deprotonate`, one proton each, relaxed at that charge, `sites` of each molecule at most, drawn with `seed`.
    neutral: keep the molecule itself besides its ions.
    """

    kind: Literal["smiles", "xyz", "sdf", "ase", "qm9"] = "smiles"
    smiles: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    unit: str = "angstrom"
    charge: int = 0
    indices: tuple[int, ...] = ()
    count: int = 0
    seed: int = 0
    max_atoms: int = 0
    relax: bool = False
    frames: int = 0
    temperature: float = 300.0
    interval: float = 500.0
    ions: str = ""
    sites: int = 1
    neutral: bool = True

    def __post_init__(self) -> None:
        _require(self.kind in KINDS, f"source.kind {self.kind!r} is unknown; known are {', '.join(KINDS)}")
        _require(self.unit in UNITS, f"source.unit {self.unit!r} is unknown; known are {', '.join(UNITS)}")
        _require(self.ions in IONS, f"source.ions {self.ions!r} is unknown; known are {', '.join(IONS[1:])}")
        for name, least in (("count", 0), ("seed", 0), ("max_atoms", 0), ("frames", 0), ("sites", 1)):
            _require(getattr(self, name) >= least, f"source.{name} must be at least {least}")
        for name in ("frames", "sites"):
            _require(getattr(self, name) <= _MOST, f"source.{name} is at most {_MOST}, not {getattr(self, name)}")
        _require(abs(self.charge) <= _MOST, f"source.charge {self.charge} is no charge of a molecule")
        for name in ("temperature", "interval"):
            value = getattr(self, name)
            _require(0 < value < math.inf, f"source.{name} must be positive, not {value}")
        _require(
            all(isinstance(s, str) for s in self.smiles + self.files), "source.smiles and source.files are strings"
        )
        _require(all(type(i) is int for i in self.indices), "source.indices are integers")
        given = {"smiles": self.smiles or self.files, "qm9": self.indices or self.count}.get(self.kind, self.files)
        what = {"smiles": "smiles or files", "qm9": "indices, or a count"}.get(self.kind, "files")
        _require(bool(given), f"a source of kind {self.kind!r} needs {what}")
        unused = {"smiles": ("indices",), "qm9": ("smiles", "files")}.get(self.kind, ("smiles", "indices"))
        for name in unused:
            _require(not getattr(self, name), f"source.{name} means nothing for kind {self.kind!r}; remove it")


@dataclass(frozen=True)
class Split:
    """Which molecules are for training, validation and test.

    kind: train (all), random (each structure by itself), molecule (all frames and ions of one molecule together), size
    (up to `train_atoms` atoms train, up to `val_atoms` val, the rest test), qh9-id and qh9-ood (the official splits of
    QH9-Stable; molecules that are not from QM9 train). val, test: shares of random and molecule. seed: of these two.
    mixed: allow structures of one molecule in several splits, whose errors are then those of known molecules; a set
    that would need it is refused otherwise.
    """

    kind: Literal["train", "random", "molecule", "size", "qh9-id", "qh9-ood"] = "train"
    val: float = 0.1
    test: float = 0.0
    seed: int = 0
    train_atoms: int = 20
    val_atoms: int = 22
    mixed: bool = False

    def __post_init__(self) -> None:
        _require(self.kind in SPLITS, f"split.kind {self.kind!r} is unknown; known are {', '.join(SPLITS)}")
        valid = self.val >= 0 and self.test >= 0 and self.val + self.test < 1
        _require(valid, "split.val and split.test are shares, together less than 1")
        _require(0 < self.train_atoms <= self.val_atoms, "split.train_atoms must not exceed split.val_atoms")


@dataclass(frozen=True)
class SetFile:
    """A whole set file; folder: where it lies, which its paths are relative to."""

    name: str
    source: tuple[Source, ...]
    theory: TheoryLevel = field(default_factory=TheoryLevel)
    labels: LabelSettings = field(default_factory=LabelSettings)
    split: Split = field(default_factory=Split)
    folder: Path = Path()


def read_set(path: Path) -> SetFile:
    """Read a set file. Raises SetFileError, whose message names the file and what to change."""
    try:
        with path.open("rb") as file:
            data = tomllib.load(file)
    except OSError as error:
        raise SetFileError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, a name with NUL, brackets without end
        raise SetFileError(f"{path}: not a TOML file ({error})") from None
    try:
        return dataclasses.replace(_parse(data, path.stem), folder=path.parent)
    except ValueError as error:
        raise SetFileError(f"{path}: {error}") from None


def _parse(data: dict[str, Any], stem: str) -> SetFile:
    known = [f.name for f in dataclasses.fields(SetFile) if f.name != "folder"]
    unknown = sorted(set(data) - set(known))
    _require(not unknown, f"unknown setting {unknown[0]!r}; known are {', '.join(known)}" if unknown else "")
    sources = data.get("source", [])
    _require(isinstance(sources, list) and bool(sources), "the set is empty; give at least one [[source]]")
    _require(all(isinstance(s, dict) for s in sources), "'source' is a list of tables: write [[source]]")
    for key in ("theory", "labels", "split"):
        _require(isinstance(data.get(key, {}), dict), f"{key!r} is a table: write [{key}]")
    return SetFile(
        name=str(data.get("name", stem)),
        source=tuple(from_dict(Source, s, "source.") for s in sources),
        theory=from_dict(TheoryLevel, data.get("theory", {}), "theory."),
        labels=from_dict(LabelSettings, data.get("labels", {}), "labels."),
        split=from_dict(Split, data.get("split", {}), "split."),
    )
