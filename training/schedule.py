"""Learning rate by step, and the running mean of the weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from training.config import Schedule


def learning_rate(schedule: Schedule, step: int) -> float:
    """Rate of a step, counted from 0: linear warm-up, then the decay that the schedule names.

    The cosine runs over all steps and ends at 1e-3 of the rate; the line starts where the warm-up ends.
    """
    warm = min(1.0, (step + 1) / max(1, schedule.warmup))
    if schedule.decay == "linear":
        left = min(1.0, (schedule.steps - step - 1) / max(1, schedule.steps - schedule.warmup))
        if warm < 1.0:
            return schedule.learning_rate * warm
        return schedule.final_rate + (schedule.learning_rate - schedule.final_rate) * left
    cosine = 0.5 * (1.0 + math.cos(math.pi * step / schedule.steps))
    return schedule.learning_rate * warm * (cosine + 1e-3)


class RunningMean(AveragedModel):
    """Exponential mean of the weights, with a shorter memory at the start; decay 0: the weights themselves.

    started: the weights given are trained ones and count as the first that are averaged.
    """

    def __init__(self, model: nn.Module, decay: float, started: bool = False) -> None:
        def average(mean: Any, current: Any, count: Any) -> None:
            n = float(count)
            torch._foreach_lerp_(mean, current, 1.0 - min(decay, (1.0 + n) / (10.0 + n)))

        super().__init__(model, multi_avg_fn=average)
        if started:
            self.n_averaged.fill_(1)
