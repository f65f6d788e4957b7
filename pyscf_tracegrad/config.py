"""Typed settings of a model, as stored in its checkpoint and read from TOML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")

MAX_STEPS = 3  # steps of the reference after F0


@dataclass(frozen=True)
class ReferenceSettings:
    """What F_ref a model was trained on; stored in its checkpoint.

    strategy: `minao` (cheap Fock builds from PySCF's minao density) or `sap` (no Fock build).
    steps: steps after F0, 0 to 3; each costs one cheap build and leaves the network less to learn.
    damping: a_1, a_2, a_3 of the steps; at least as many as there are steps.
    mixing: `damped` goes on from the last step; `anderson` takes the last step from the combination of all of them
        whose response is smallest (`anderson.py`).
    xc: functional of the reference, that of the labels.
    grid_level: PySCF grid level of the cheap operator; 0 is too noisy (2e-5 hartree between orientations).
    gauge: take the S-component of the last response undamped; matters for the matrix, not for the density.
    smearing: kT in hartree of the occupations in a step; above 0 so that degenerate levels do not break symmetry.
    """

    strategy: Literal["minao", "sap"] = "minao"
    steps: int = 1
    damping: tuple[float, ...] = (0.4, 0.3, 0.35)
    mixing: Literal["damped", "anderson"] = "damped"
    xc: str = "b3lyp"
    grid_level: int = 1
    gauge: bool = True
    smearing: float = 0.01

    def __post_init__(self) -> None:
        if self.strategy not in ("minao", "sap"):
            raise ValueError(f"reference strategy {self.strategy!r} is unknown: use 'minao' or 'sap'")
        if not 0 <= self.steps <= MAX_STEPS:
            raise ValueError(f"the reference takes 0 to {MAX_STEPS} steps, not {self.steps}")
        if len(self.damping) < self.steps:
            raise ValueError(f"damping of the reference needs a number for each of {self.steps} steps: {self.damping}")
        if self.mixing not in ("damped", "anderson"):
            raise ValueError(f"mixing of the reference is 'damped' or 'anderson', not {self.mixing!r}")
        if self.strategy == "sap" and self.steps:
            raise ValueError("the 'sap' reference makes no Fock build: set steps = 0")

    @property
    def n_responses(self) -> int:
        """Number of response matrices G_k that come with F_ref."""
        return self.steps


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the network.

    backbone: module of `pyscf_tracegrad.backbones` that makes the features.
    reference: the reference Fock matrix that the network corrects and takes as input.
    l_max: highest degree of the features. 4 couples d with d; more adds cost and nothing that a block can show.
    channels: features per degree; cost grows with its square.
    layers: message-passing layers; each lets an atom see one cutoff further.
    radial: number of radial functions of a distance.
    cutoff: bohr; pairs beyond it keep the reference. Must cover what the damped steps leave over.
    message_scale: bohr; width of the Gaussian that damps messages with distance. Not used by `qhnet`.
    centre: begin from the mean correction of the training set, by element and distance, instead of from F_ref. For
        references that are far off (`sap`), or none; near the answer the means of single elements fit together so
        badly that they are worse than nothing (ov 6e-4 instead of 1.2e-4 before the first step).
    inputs: which matrices the network sees as blocks: `all` (F_ref and the responses G), `reference` (F_ref alone), or
        `none` (elements, charge and positions only, as the published networks).
    invariants: quadratic invariants of TraceGrad (paper: 1024); cost is linear in it.
    gradient: add the gradient of the invariants to the features (the paper's Grad).
    traces: predict the traces of the blocks from the invariants, for the auxiliary loss (the paper's Trace).
    trace_hidden: width of the invariant decoder that predicts the traces (paper: 1024).
    """

    backbone: str = "qhnet_so2"
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    l_max: int = 4
    channels: int = 64
    layers: int = 3
    radial: int = 32
    cutoff: float = 20.0
    message_scale: float = 9.0
    centre: bool = False
    inputs: Literal["all", "reference", "none"] = "all"
    invariants: int = 128
    gradient: bool = True
    traces: bool = True
    trace_hidden: int = 128

    def __post_init__(self) -> None:
        for name in ("l_max", "channels", "layers", "radial", "invariants", "trace_hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"model setting {name} must be positive, not {getattr(self, name)}")
        if self.cutoff <= 0 or self.message_scale <= 0:
            raise ValueError("cutoff and message_scale are lengths in bohr and must be positive")
        if self.inputs not in ("all", "reference", "none"):
            raise ValueError(f"model setting inputs is 'all', 'reference' or 'none', not {self.inputs!r}")

    @property
    def fields(self) -> int:
        """Number of matrices that the network sees: F_ref first, then the responses."""
        return {"all": 1 + self.reference.n_responses, "reference": 1, "none": 0}[self.inputs]


def from_dict(cls: type[T], data: dict[str, Any], where: str = "") -> T:
    """Build a settings dataclass from plain data (TOML, checkpoint); unknown keys and wrong types are refused.

    Raises ValueError that names the key and the ones that exist.
    """
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ValueError(f"unknown setting {where}{unknown[0]!r}; known are {', '.join(sorted(fields))}")
    values: dict[str, Any] = {}
    for name, value in data.items():
        default = fields[name].default
        factory = fields[name].default_factory
        if callable(factory):
            default = factory()
        if dataclasses.is_dataclass(default) and isinstance(value, dict):
            value = from_dict(type(default), value, f"{where}{name}.")
        elif isinstance(value, list):
            value = tuple(value)
        elif isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if default is not dataclasses.MISSING and default is not None and type(value) is not type(default):
            kind = "a list" if isinstance(default, tuple) else type(default).__name__
            raise ValueError(f"setting {where}{name} takes {kind}, not {value!r}")
        values[name] = value
    return cls(**values)
