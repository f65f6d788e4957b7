"""Which model answers: model files and loaded models, what each one covers, and the first that covers a calculation.

torch is not imported here. Beside a model file stands its record (`.json` appended): functional, basis and shells,
which is all that it takes to see whether the network would be asked. A file without a record that fits it is loaded.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from pyscf import gto

from pyscf_tracegrad.errors import CheckpointError, UnsupportedBasis
from pyscf_tracegrad.orbitals import ShellTable, layout

if TYPE_CHECKING:
    from pyscf_tracegrad.pretrained import PretrainedModel

SHIPPED = Path(__file__).parent / "weights" / "qhnet_so2.pt"

# The name of the shipped model wherever a path is taken.
_SHIPPED_NAME = "shipped"

ModelSource = Union[Path, "PretrainedModel"]


def checksum_file(path: Path) -> Path:
    """The file that holds the SHA-256 of a checkpoint."""
    return path.with_name(path.name + ".sha256")


def record_file(path: Path) -> Path:
    """The file that holds the record of a checkpoint."""
    return path.with_name(path.name + ".json")


def model_sources(model: Any) -> tuple[ModelSource, ...]:
    """What a user gives as `model`, as a tuple: a path, 'shipped', a loaded model, or several of these; None is none.

    Raises TypeError for anything else. Files are not looked at.
    """
    if model is None:
        return ()
    if isinstance(model, (str, os.PathLike)):
        return (SHIPPED if model == _SHIPPED_NAME else Path(model).expanduser(),)
    if isinstance(model, (list, tuple)):
        return tuple(source for each in model for source in model_sources(each))
    if hasattr(model, "checkpoint"):
        return (model,)
    raise TypeError(
        f"model takes the path of a model file, what load_model returns, or several of these, not {model!r}"
    )


def check_files(sources: Sequence[ModelSource]) -> None:
    """Raises CheckpointError for a path where no file is."""
    for source in sources:
        if isinstance(source, Path) and not source.is_file():
            raise CheckpointError(f"{source}: no such file; give the path of a model file")


@dataclass(frozen=True)
class ModelRecord:
    """What a model covers. xc, basis: level of theory of its labels. shells: AOs it knows, per element."""

    xc: str
    basis: str
    shells: ShellTable

    def to_json(self, sha256: str) -> str:
        """Text of the record file. sha256: that of the model file which it stands beside."""
        return (
            json.dumps({"sha256": sha256, "xc": self.xc, "basis": self.basis, "shells": self.shells.to_list()}) + "\n"
        )

    def knows_basis(self, mol: gto.Mole) -> bool:
        """Whether the molecule has the very AOs that the model was trained on.

        Raises UnsupportedBasis where it has another element.
        """
        try:
            layout(mol, self.shells)
        except UnsupportedBasis:
            if {int(z) for z in mol.atom_charges() if z} <= set(self.shells.elements):
                return False
            raise
        return True


def read_record(source: ModelSource) -> ModelRecord:
    """Record of a model, from the file beside it where that belongs to it, else from the model itself.

    Raises, in the latter case only, CheckpointError and whatever importing torch may raise.
    """
    if isinstance(source, Path):
        try:
            data = json.loads(record_file(source).read_text(encoding="utf-8"))
            if data["sha256"] == checksum_file(source).read_text(encoding="utf-8").split()[0]:
                return ModelRecord(str(data["xc"]), str(data["basis"]), ShellTable.from_list(data["shells"]))
        except (OSError, ValueError, LookupError, TypeError):
            pass  # missing, damaged or of another file: the model itself knows
        check_files([source])  # before torch is loaded
    checkpoint = _load(source).checkpoint
    return ModelRecord(checkpoint.xc, checkpoint.basis, checkpoint.shells)


def _load(source: ModelSource) -> PretrainedModel:
    if not isinstance(source, Path):
        return source
    from pyscf_tracegrad.pretrained import load_model  # needs torch

    return load_model(None if source == SHIPPED else source)


@dataclass(frozen=True)
class ChosenModel:
    """The model that answers. native: the molecule has its AOs. same_theory: and the calculation its functional."""

    source: ModelSource
    native: bool
    same_theory: bool

    @property
    def name(self) -> str:
        """`shipped`, the path of the file, or `given` for a model that was loaded before."""
        if not isinstance(self.source, Path):
            return "given"
        return _SHIPPED_NAME if self.source == SHIPPED else str(self.source)

    def load(self) -> PretrainedModel:
        """The model itself. Raises CheckpointError, and whatever importing torch may raise."""
        return _load(self.source)


def choose_model(
    sources: Sequence[ModelSource], mol: gto.Mole, same_theory: Callable[[str], bool] = lambda _: True
) -> ChosenModel:
    """The first model with the molecule's AOs and the calculation's functional; else the first that knows its elements.

    sources: from `model_sources`; the shipped model if there are none. same_theory: whether a functional is that of the
    calculation. Raises UnsupportedBasis where none knows the elements, and what `read_record` raises.
    """
    other: ChosenModel | None = None
    refusal: UnsupportedBasis | None = None
    for source in sources or (SHIPPED,):
        record = read_record(source)
        try:
            native = record.knows_basis(mol)
        except UnsupportedBasis as error:
            refusal = refusal or error
            continue
        if native and same_theory(record.xc):
            return ChosenModel(source, True, True)
        other = other or ChosenModel(source, native, False)
    if other is None:
        raise refusal or UnsupportedBasis("no model was given")
    return other
