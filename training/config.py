"""Typed settings of a training run, read from TOML; unknown keys are refused."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from pyscf_tracegrad.config import ModelConfig, from_dict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss, hartree (mae, mse, mo) or dimensionless (ov); see `losses.py`.

    mae, mse: error of the Fock matrix in the AO basis; MAE + MSE is the paper's loss.
    ov: occupied-virtual error, the first-order error of the density; what decides the number of cycles.
    mo: error in the MO basis, all blocks; keeps single virtual orbitals from falling below the gap (intruders).
    trace: the paper's lambda, share of the trace loss in units of the others (0.2 for molecules there).
    """

    mae: float = 1.0
    mse: float = 0.0
    ov: float = 1.0
    mo: float = 0.05
    trace: float = 0.1


@dataclass(frozen=True)
class Schedule:
    """Optimisation: AdamW, linear warm-up, cosine decay to 1e-3 of the rate, gradient clipping, EMA.

    steps: length of the run; the cosine ends there. batch_size: molecules a step; more is smoother and slower.
    learning_rate, weight_decay, betas: of AdamW. warmup: steps. clip: norm of the gradient. ema: decay of the running
    mean of the weights, which is what is shipped; nearer 1 averages over more steps. seed: of the weights and the data
    order.
    """

    steps: int = 4000
    batch_size: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    clip: float = 5.0
    ema: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("steps and batch_size must be positive")


@dataclass(frozen=True)
class RunConfig:
    """A training run: sections [model], [schedule] and [loss] of its TOML file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: Schedule = field(default_factory=Schedule)
    loss: LossWeights = field(default_factory=LossWeights)


def read_config(path: str | Path) -> RunConfig:
    """Read a TOML file. Raises ValueError that names the file and the setting."""
    try:
        return from_dict(RunConfig, tomllib.loads(Path(path).read_text()))
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None
