"""The pretraining recipe's optimiser and schedules, as functions of how much of the run is done.

Source: Belcak & Wattenhofer 2023, section 3.1, which follows Geiping & Goldstein 2022, "Cramming": AdamW,
a triangular one-cycle learning rate over the whole budget, and a batch that grows at the beginning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from ufbert.settings.sections import TrainingSettings, parse_duration

__all__ = ["Schedule", "build_optimizer", "parameter_groups", "set_learning_rate"]


@dataclass(frozen=True)
class Schedule:
    """Learning rate, batch size and end of a run, given its settings."""

    settings: TrainingSettings

    def progress(self, steps: int, tokens: int, seconds: float) -> float:
        """The share of the run that is done, from 0 to 1, by what its end is counted in.

        `seconds` is the time spent in this run so far, earlier sessions included.
        """
        training = self.settings
        if training.steps:
            share = steps / training.steps
        elif training.tokens:
            share = tokens / training.tokens
        else:
            share = seconds / parse_duration(training.budget, "training.budget")
        return min(1.0, share)

    def learning_rate(self, progress: float) -> float:
        """The triangle: from the initial share of the peak up to the peak, then down to 0 at progress 1."""
        training = self.settings
        if progress < training.peak_fraction:
            start = training.initial_learning_rate_fraction
            share = start + (1.0 - start) * progress / training.peak_fraction
        elif training.peak_fraction < 1.0:
            share = (1.0 - progress) / (1.0 - training.peak_fraction)
        else:
            share = 1.0
        return training.peak_learning_rate * share

    def batch(self, progress: float) -> int:
        """Sequences of the step that begins at `progress`: whole micro-batches until the ramp ends."""
        training = self.settings
        micro = min(training.micro_batch_size, training.batch_size)
        if progress >= training.batch_ramp_fraction:
            return training.batch_size
        ramped = micro + (training.batch_size - micro) * progress / training.batch_ramp_fraction
        return min(training.batch_size, micro * max(1, round(ramped / micro)))

    def sequences_left(self, steps: int, tokens: int, sequence_length: int) -> float:
        """Sequences still to come in a run that ends by steps or tokens; NaN in one that ends by time."""
        training = self.settings
        if training.tokens:
            return max(0, training.tokens - tokens) / sequence_length
        if not training.steps:
            return math.nan
        # The batch is piecewise linear in the progress, so a few hundred samples give its mean.
        left = training.steps - steps
        samples = min(left, 500)
        shares = [(steps + left * (i + 0.5) / samples) / training.steps for i in range(samples)]
        return left * sum(map(self.batch, shares)) / max(1, samples)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups for AdamW: matrices with `weight_decay`, and without it norms, biases and scales.

    An FFF's `b_in` is a bias although it has two dimensions.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        is_bias = last in ("bias", "b_in", "b_out")
        (plain if is_bias or parameter.ndim < 2 else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, training: TrainingSettings) -> torch.optim.AdamW:
    """AdamW in the fused form, which goes over each parameter once."""
    return torch.optim.AdamW(
        parameter_groups(model, training.weight_decay),
        lr=training.peak_learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The learning rate of the next step, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
