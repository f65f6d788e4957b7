"""Typed settings of a training run, read from TOML; unknown keys are refused."""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pyscf_tracegrad.config import ModelConfig, from_dict
from training.start import Start, start_settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms of the loss, hartree (mae, mse, mo) or dimensionless (ov); see `losses.py`. 0: term is off.

    mae, mse: error of the Fock matrix in the AO basis; MAE + MSE is the paper's loss. Raising mse against mae trades
        the many small errors for the few large ones.
    ov: occupied-virtual error, the first-order error of the density; what decides the number of cycles. Raising it
        gives better guesses and a worse matrix.
    mo: error in the MO basis, all blocks; keeps single virtual orbitals from falling below the gap (intruders). Raising
        it guards more and takes from ov.
    trace: the paper's lambda, share of the trace loss in units of the others (0.2 for molecules there). Raising it
        spends more of a step on the traces.
    """

    mae: float = 1.0
    mse: float = 0.0
    ov: float = 1.0
    mo: float = 0.05
    trace: float = 0.1

    def __post_init__(self) -> None:
        if min(self.mae, self.mse, self.ov, self.mo, self.trace) < 0:
            raise ValueError("weights of the loss cannot be negative")
        if self.mae + self.mse + self.ov + self.mo == 0:
            raise ValueError("a loss of traces alone trains no matrix: set one of mae, mse, ov, mo above 0")


@dataclass(frozen=True)
class Schedule:
    """Optimisation: AdamW, linear warm-up, decay of the rate, gradient clipping, running mean of the weights (EMA).

    steps: length of the run; the decay ends there. Raising it costs time in proportion; the shipped run was still
        improving when it ended.
    batch_size: molecules a step, over all processes; more is smoother and slower, and wants a higher learning_rate.
    learning_rate: of AdamW at the end of the warm-up. Higher learns faster, until the loss jumps or is not finite.
    weight_decay: of AdamW; more keeps weights smaller, against overfitting where there are few molecules.
    betas: of AdamW, memory of the gradient and of its square; nearer 1 remembers longer. 0.999 for the second suits
        runs of more than some 10,000 steps.
    warmup: steps from 0 to learning_rate; more is safer with a high rate.
    decay: `cosine`: half a cosine over all steps, to 1e-3 of learning_rate. `linear`: a straight line from the end of
        the warm-up to final_rate.
    final_rate: rate of the last step of the linear decay; higher keeps moving to the end, which the EMA must average.
    clip: largest norm of the gradient; the loss is 100 times the sum of its terms (`losses.SCALE`). Lower survives bad
        batches better and slows the start.
    ema: decay of the running mean of the weights, which is what is validated and shipped; nearer 1 averages over more
        steps, and lags behind in short runs. 0: off, the weights themselves.
    seed: of the weights and of the data order.
    """

    steps: int = 4000
    batch_size: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    warmup: int = 100
    decay: Literal["cosine", "linear"] = "cosine"
    final_rate: float = 0.0
    clip: float = 5.0
    ema: float = 0.998
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise ValueError("steps and batch_size must be positive")
        if self.learning_rate <= 0 or self.clip <= 0 or self.weight_decay < 0 or self.warmup < 0:
            raise ValueError("learning_rate and clip must be positive, weight_decay and warmup cannot be negative")
        if not all(0 <= beta < 1 for beta in (*self.betas, self.ema)) or len(self.betas) != 2:
            raise ValueError("ema and the two betas are at least 0 and below 1; ema = 0 switches it off")
        if self.decay not in ("cosine", "linear"):
            raise ValueError(f"decay is 'cosine' or 'linear', not {self.decay!r}")
        if not 0 <= self.final_rate <= self.learning_rate:
            raise ValueError("final_rate is between 0 and learning_rate")
        if self.final_rate and self.decay == "cosine":
            raise ValueError("final_rate is for decay = 'linear'; the cosine ends at 1e-3 of learning_rate")


@dataclass(frozen=True)
class Hardware:
    """What may differ from machine to machine; a run can be resumed with other settings here.

    tf32: matrix products in TensorFloat-32 where the GPU has it (10 bits of mantissa; several times faster). On a CPU
        nothing changes.
    """

    tf32: bool = True


@dataclass(frozen=True)
class RunConfig:
    """A training run: sections [model], [schedule], [loss], [start] and [hardware] of its TOML file."""

    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: Schedule = field(default_factory=Schedule)
    loss: LossWeights = field(default_factory=LossWeights)
    start: Start = field(default_factory=Start)
    hardware: Hardware = field(default_factory=Hardware)


def read_config(path: str | Path) -> RunConfig:
    """Read a TOML file; with a section [start] the model's settings are those of the model file that it names.

    Raises ValueError that names the file and the setting, or says why that model file cannot be used.
    """
    try:
        data = tomllib.loads(Path(path).read_text())
        config = from_dict(RunConfig, data)
        return dataclasses.replace(config, model=start_settings(config.start, config.model, data.get("model", {})))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from None


def to_toml(config: RunConfig) -> str:
    """A TOML file that `read_config` reads as `config`."""
    return "\n".join(_section(name, value) for name, value in dataclasses.asdict(config).items())


def _section(name: str, values: dict[str, Any]) -> str:
    lines = [f"[{name}]"]
    lines += [f"{key} = {_toml(value)}" for key, value in values.items() if not isinstance(value, dict)]
    tables = [_section(f"{name}.{key}", value) for key, value in values.items() if isinstance(value, dict)]
    return "\n".join(["\n".join(lines) + "\n", *tables])


def _toml(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    return json.dumps(value) if isinstance(value, bool | str) else repr(value)
