"""Which runs a study is made of.

A trial is a training run with its settings; trials of equal settings are one, whichever study asks for them.
"""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Any, Literal

from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from training.config import LossWeights, RunConfig

LAMBDA = 0.2  # weight of the trace loss where there is one: the paper's for molecules
FRACTIONS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)  # of the training molecules, for learning curves


def changed(settings: Any, where: str = "") -> dict[str, Any]:
    """Settings that are not at their defaults, by dotted name: new ones with a default change no key."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{where}{field.name}"
        if dataclasses.is_dataclass(value):
            found |= changed(value, f"{name}.")
        elif value != field.default:
            found[name] = value
    return found


@dataclass(frozen=True)
class Trial:
    """One training run of a study.

    arm: name of the row in the table. molecules: size of the random subset of the training molecules, None for all.
    minutes: where given, the number of steps is what fits into so many minutes of CPU time, not that of the config.
    """

    arm: str
    config: RunConfig
    molecules: int | None = None
    minutes: float | None = None

    @property
    def seed(self) -> int:
        """Seed of weights and data order."""
        return self.config.schedule.seed

    @property
    def key(self) -> str:
        """Folder name: the same for equal settings, whatever the arm is called."""
        text = f"{sorted(changed(self.config).items())} {self.molecules} {self.minutes}"
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _with(base: RunConfig, seed: int, model: ModelConfig, loss: LossWeights | None = None) -> RunConfig:
    schedule = dataclasses.replace(base.schedule, seed=seed)
    return dataclasses.replace(base, model=model, schedule=schedule, loss=loss or base.loss)


def ablation(base: RunConfig, seeds: int) -> list[Trial]:
    """{baseline, +Trace, +Grad, +TraceGrad} x {the paper's loss MAE + MSE, ours with ov and MO terms}, seed by seed."""
    trials = []
    for seed in range(seeds):
        for ov in (True, False):
            for name, gradient, traces in (
                ("baseline", False, False),
                ("+Trace", False, True),
                ("+Grad", True, False),
                ("+TraceGrad", True, True),
            ):
                terms = {} if ov else {"mse": 1.0, "ov": 0.0, "mo": 0.0}
                loss = dataclasses.replace(base.loss, trace=LAMBDA if traces else 0.0, **terms)
                model = dataclasses.replace(base.model, gradient=gradient, traces=traces)
                trials.append(Trial(f"{name}, {'ov' if ov else 'plain'}", _with(base, seed, model, loss)))
    return trials


def references(base: RunConfig, seeds: int) -> list[Trial]:
    """hcore + SAP, and zero to three damped steps after F0, the last of them mixed or not; with and without the mean
    correction to begin from, and with and without G as input. TraceGrad and ov loss.
    """

    def steps(n: int, mixing: Literal["damped", "anderson"] = "damped") -> ReferenceSettings:
        return dataclasses.replace(base.model.reference, steps=n, mixing=mixing)

    plain, centred = (dataclasses.replace(base.model, centre=centre) for centre in (False, True))
    kinds = (
        ("hcore + SAP, centred", centred, ReferenceSettings("sap", steps=0, xc=base.model.reference.xc)),
        ("F0, centred", centred, steps(0)),
        ("one step", plain, steps(1)),
        ("one step, G not input", dataclasses.replace(plain, inputs="reference"), steps(1)),
        ("two steps, centred", centred, steps(2)),
        ("two steps", plain, steps(2)),
        ("three steps", plain, steps(3)),
        ("three steps, mixed, centred", centred, steps(3, "anderson")),
        ("three steps, mixed", plain, steps(3, "anderson")),
    )
    loss = dataclasses.replace(base.loss, trace=LAMBDA)
    trials = []
    for seed in range(seeds):
        for arm, model, reference in kinds:
            trials.append(Trial(arm, _with(base, seed, dataclasses.replace(model, reference=reference), loss)))
    return trials


def curves(base: RunConfig, seeds: int, total: int) -> list[Trial]:
    """The same run with five numbers of training molecules, `total` the largest."""
    loss = dataclasses.replace(base.loss, trace=LAMBDA)
    trials = []
    for seed in range(seeds):
        for fraction in FRACTIONS:
            n = round(total * fraction)
            trials.append(Trial(f"{n} molecules", _with(base, seed, base.model, loss), None if fraction == 1 else n))
    return trials


def backbones(base: RunConfig, published: RunConfig, seeds: int, minutes: float) -> list[Trial]:
    """`qhnet_so2`, `qhnet` at the same sizes, and `qhnet` at the published sizes and learning rate.

    Each takes as many steps as fit into the minutes; same loss, same data, same running mean of the weights.
    """
    same_size = dataclasses.replace(base, model=dataclasses.replace(base.model, backbone=published.model.backbone))
    trials = []
    for seed in range(seeds):
        for config in (base, same_size, published):
            for tracegrad in (False, True):
                model = dataclasses.replace(config.model, gradient=tracegrad, traces=tracegrad)
                loss = dataclasses.replace(base.loss, trace=LAMBDA if tracegrad else 0.0)
                schedule = dataclasses.replace(base.schedule, learning_rate=config.schedule.learning_rate, seed=seed)
                run = dataclasses.replace(config, model=model, loss=loss, schedule=schedule)
                name = f"{config.model.backbone}, {config.model.channels} channels"
                trials.append(Trial(name + (" + TraceGrad" if tracegrad else ""), run, None, minutes))
    return trials


def shortened(config: RunConfig, steps: int) -> RunConfig:
    """A config with so many steps, at most a tenth of them to warm up."""
    warmup = min(config.schedule.warmup, max(1, steps // 10))
    return dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, steps=steps, warmup=warmup))
