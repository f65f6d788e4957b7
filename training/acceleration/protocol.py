"""How a study calculates, stored with its results: two runs with the same protocol may be compared."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pyscf_tracegrad.config import from_dict
from training.bench.common import Level
from training.bench.molecules import Molecule
from training.files import replace_file

Regime = Literal["", "incore", "direct", "df"]

FILE = "protocol.json"
_PACKAGES = ("pyscf", "torch", "numpy", "scipy", "pyscf_tracegrad")


class ProtocolError(ValueError):
    """A study that cannot be run or continued as asked for."""


@dataclass(frozen=True)
class Protocol:
    """The SCF that every guess starts. The defaults are PySCF's own; QH9's test is B3LYP/def2-SVP with these.

    xc: functional by PySCF's name, or `hf`. grid_level: PySCF's. conv_tol: hartree; the gradient's threshold is its
    root, as in PySCF. regime: two-electron integrals kept (`incore`), made anew (`direct`), fitted (`df`), or PySCF's
    choice by memory (empty). threads: of PySCF, BLAS and torch. shared: whether the guesses of a molecule share its
    integrals and its grid; they take the same cycles in half the time, and the times say nothing. model: name and
    SHA-256 of the model of the guesses by the network; empty: the shipped one.
    """

    xc: str = "b3lyp"
    basis: str = "def2-svp"
    grid_level: int = 3
    conv_tol: float = 1e-9
    max_cycle: int = 50
    regime: Regime = ""
    threads: int = 1
    shared: bool = False
    model: str = ""

    def __post_init__(self) -> None:
        if self.regime not in ("", "incore", "direct", "df"):
            raise ProtocolError(f"regime is incore, direct or df, not {self.regime!r}")
        if not 0 <= self.grid_level <= 9:
            raise ProtocolError(f"grid_level is 0 to 9, not {self.grid_level}")
        if self.conv_tol <= 0 or self.max_cycle < 1 or self.threads < 1:
            raise ProtocolError("conv_tol, max_cycle and threads must be positive")

    def make_mf(self, molecule: Molecule) -> Any:
        """Fresh SCF object, unrestricted for open shells."""
        mf = Level("", self.xc, self.basis, self.regime).make_mf(molecule)
        mf.conv_tol, mf.max_cycle = self.conv_tol, self.max_cycle
        if self.xc != "hf":
            mf.grids.level = self.grid_level
        return mf


@dataclass(frozen=True)
class OwnModel:
    """A model of one's own: name with the beginning of its SHA-256, absolute path; both empty for the shipped one."""

    name: str = ""
    path: str = ""


def own_model(path: Path | None) -> OwnModel:
    """The model that a command line names. Raises CheckpointError for a file that is none."""
    if path is None:
        return OwnModel()
    from pyscf_tracegrad import load_model

    load_model(path)
    return OwnModel(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}", str(path.resolve()))


def environment() -> dict[str, str]:
    """Versions, the weights' SHA-256 and the system."""
    from pyscf_tracegrad.pretrained import SHIPPED  # loads torch, which a report alone does not need

    found = {name: version(name) for name in _PACKAGES}
    weights = SHIPPED.with_name(f"{SHIPPED.name}.sha256").read_text().split()[0][:16]
    system = f"{platform.system()} {platform.machine()}"
    return {"python": platform.python_version(), **found, "weights": weights, "system": system}


def settle(folder: Path, protocol: Protocol) -> dict[str, str]:
    """Store the protocol and the environment with the results of a study, or check those that are there.

    Returns the environment that the study was begun in. Raises ProtocolError where the folder has other results.
    """
    path = folder / FILE
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        about = {"protocol": dataclasses.asdict(protocol), "environment": environment()}
        replace_file(path, json.dumps(about, indent=1).encode())
    before, begun_in = read_protocol(folder)
    for field in dataclasses.fields(Protocol):
        old, new = getattr(before, field.name), getattr(protocol, field.name)
        if old != new:
            raise ProtocolError(f"{folder} was begun with {field.name} = {old!r}, not {new!r}; give another -o")
    return begun_in


def read_protocol(folder: Path) -> tuple[Protocol, dict[str, str]]:
    """Protocol and environment of the results in a folder. Raises ProtocolError where there are none."""
    path = folder / FILE
    try:
        about = json.loads(path.read_text())
        return from_dict(Protocol, about["protocol"]), about["environment"]
    except OSError:
        raise ProtocolError(f"{folder} has no {FILE}; give the folder of a study (-o)") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"{path} cannot be read ({error}); it belongs to another version") from None
