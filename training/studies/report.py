"""What a study says: its tables as Markdown, and the learning curves as a picture."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from pyscf_tracegrad.config import ModelConfig, ReferenceSettings
from pyscf_tracegrad.reference import build_reference
from training.config import RunConfig
from training.dataset import model_input
from training.evaluate import Row
from training.files import LOG
from training.labels import LabelFile
from training.logs import read_log
from training.studies.cost import Stepper, batches, parameters, step_memory, step_seconds
from training.studies.run import Place, subset, training_set
from training.studies.score import reference_route
from training.studies.tables import Outcome, arm_table, arms, effects, fit_power_law, outcomes, spread
from training.studies.trials import Trial

MEGA = 1e6
_TIMED = 24  # training molecules that steps are timed with: a few batches are enough


@dataclass(frozen=True)
class Costs:
    """Of one arm: parameters, CPU seconds of a training step and of inference for one molecule."""

    parameters: int
    step: float
    inference: float


def costs(place: Place, trials: Sequence[Trial]) -> dict[str, Costs]:
    """Of the first trial of each arm, side by side on the same molecules."""
    first = {trial.arm: trial.config for trial in reversed(trials)}
    by_reference: dict[ReferenceSettings, dict[str, RunConfig]] = {}
    for trial in trials:
        by_reference.setdefault(trial.config.model.reference, {})[trial.arm] = first[trial.arm]
    found: dict[str, Costs] = {}
    for reference, configs in by_reference.items():
        cutoff = max(config.model.cutoff for config in configs.values())
        data, table, _ = training_set(place.labels, ModelConfig(reference=reference, cutoff=cutoff))
        few = subset(data, min(_TIMED, len(data)))
        seconds = step_seconds(list(configs.values()), table, few)
        for (arm, config), step in zip(configs.items(), seconds, strict=True):
            stepper = Stepper(config, table)
            found[arm] = Costs(parameters(config, table), step, inference_seconds(stepper, few))
    return found


def inference_seconds(stepper: Stepper, data: Sequence, rounds: int = 7) -> float:
    """CPU seconds of the network for one molecule: median."""
    model = stepper.model.eval()
    times = []
    with torch.inference_mode():
        for batch in batches(data, 1, rounds):
            inputs = model_input(batch)
            start = time.process_time()
            model(inputs)
            times.append(time.process_time() - start)
    return float(np.median(times[1:] or times))


def _cost_cells(found: dict[str, Costs]) -> dict[str, list[str]]:
    return {arm: [f"{c.parameters:,}", f"{c.step:.3f}", f"{1000 * c.inference:.0f}"] for arm, c in found.items()}


_COST_NAMES = ("parameters", "CPU s/step", "inference, CPU ms")


def ablation_report(place: Place, trials: Sequence[Trial], rows: Sequence[Row]) -> str:
    """The table of the arms, and what each part changes against the baseline."""
    by_arm = arms(trials, outcomes(rows))
    cells = _cost_cells(costs(place, trials))
    return f"{arm_table(by_arm, cells, _COST_NAMES)}\n\n{effects(by_arm)}"


def reference_seconds(place: Place, settings: Sequence[ReferenceSettings], n: int = 3) -> dict[str, float]:
    """CPU seconds of each reference, set-up included: mean of n held-out molecules, side by side."""
    file = LabelFile(place.labels[0])
    chosen = [k for k, split in enumerate(file.splits) if split == "val"][:n]
    total = dict.fromkeys(map(reference_route, settings), 0.0)
    for k in chosen:
        mol = file[k].molecule(file.theory.basis)
        for one in settings:
            start = time.process_time()
            build_reference(mol, one)
            total[reference_route(one)] += (time.process_time() - start) / len(chosen)
    return total


def references_report(place: Place, trials: Sequence[Trial], rows: Sequence[Row]) -> str:
    """Before and after training, and what each reference costs."""
    found = outcomes(rows)
    settings = list(dict.fromkeys(t.config.model.reference for t in trials))
    seconds = reference_seconds(place, settings)
    extra = {}
    for trial in trials:
        route = reference_route(trial.config.model.reference)
        if route in found:
            alone = found[route]
            extra[trial.arm] = [f"{alone.ov * 1e4:.2f}", spread([alone.ratio], ".3f"), f"{seconds[route]:.2f}"]
    names = ("before: ov (1e-4)", "before: cycles/minao", "reference, CPU s")
    return arm_table(arms(trials, found), extra, names)


def curves_report(trials: Sequence[Trial], rows: Sequence[Row], picture: Path) -> str:
    """Errors against the number of training molecules, fitted by power laws and drawn."""
    by_arm = arms(trials, outcomes(rows))
    text = arm_table(by_arm, {}, ())
    sizes = np.array([float(arm.split()[0]) for arm in by_arm])
    if len(sizes) < 2:
        return text
    laws = draw_curves(sizes, list(by_arm.values()), picture)
    return f"{text}\n\n{laws}\n\n![errors against the number of training molecules]({picture.name})"


def draw_curves(sizes: np.ndarray, found: Sequence[Sequence[Outcome]], picture: Path) -> str:
    """Picture of ov error and cycles over minao's; returns the power laws in words."""
    panels = [("ov", "ov error", "log"), ("ratio", "cycles / minao's", "linear")]
    panels = [panel for panel in panels if all(np.isfinite(getattr(o, panel[0])) for seeds in found for o in seeds)]
    figure = Figure(figsize=(4.5 * len(panels), 3.6), layout="constrained")
    lines = []
    for ax, (name, label, scale) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        values = [[getattr(o, name) for o in seeds] for seeds in found]
        for x, ys in zip(sizes, values, strict=True):
            ax.plot([x] * len(ys), ys, "o", color="#4477aa", ms=4)
        law = fit_power_law(sizes.tolist(), [float(np.mean(ys)) for ys in values])
        fine = np.geomspace(sizes.min(), 4 * sizes.max(), 100)
        ax.plot(fine, law(fine), color="#ee6677", lw=1)
        lines.append(f"{label} = {law.a:.3g} (n / {law.n0:.0f})^{-law.b:.3f}")
        ax.set(xscale="log", yscale=scale, xlabel="training molecules", ylabel=label)
        ax.spines[["top", "right"]].set_visible(False)
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=110)
    return "; ".join(lines)


def backbones_report(place: Place, trials: Sequence[Trial], rows: Sequence[Row]) -> str:
    """Accuracy, parameters, steps, training and inference seconds, memory."""
    by_arm = arms(trials, outcomes(rows))
    cells = _cost_cells(costs(place, trials))
    extra = {}
    for trial in trials:
        if trial.arm in by_arm and trial.arm not in extra:
            steps = read_log(place.folder(trial) / LOG)[-1]["step"]
            memory = f"{step_memory(trial.config) / MEGA:.0f}"
            extra[trial.arm] = [*cells[trial.arm], steps, memory]
    return arm_table(by_arm, extra, (*_COST_NAMES, "steps", "training memory, MB"))
