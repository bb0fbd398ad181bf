"""Schedules of the trainings: learning rate, batch and end, by how much of a run is done.

`Schedule` is pretraining's. Source: Belcak & Wattenhofer 2023, section 3.1, which follows Geiping & Goldstein 2022,
"Cramming": a triangular one-cycle learning rate over the whole budget, and a batch that grows at the beginning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ufbert.settings.sections import TrainingSettings, parse_duration

__all__ = ["Schedule", "one_cycle", "triangle", "warm_up_then_decay"]

WARM_UP = 0.1
LEAST = 0.01


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
        share = triangle(progress, training.peak_fraction, training.initial_learning_rate_fraction)
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


def triangle(done: float, peak: float, start: float = 0.0) -> float:
    """The share at `done` (from 0 to 1) of a run: linear from `start` up to 1 at `peak`, then down to 0 at 1."""
    if done < peak:
        return start + (1.0 - start) * done / peak
    return (1.0 - done) / (1.0 - peak) if peak < 1.0 else 1.0


def one_cycle(done: float) -> float:
    """The distillation's triangle: up over the first tenth, then down; never 0, so that every step trains."""
    return max(LEAST, triangle(done, WARM_UP))


def warm_up_then_decay(step: int, total: int, *, warmup_fraction: float, decay: str) -> float:
    """The share at `step` (from 0) of `total`: linear warm-up over a share of the steps, then `decay`.

    `decay` is `cosine` or `linear`, which end near 0, or `constant`.
    """
    warm_up = math.ceil(warmup_fraction * total)
    if step < warm_up:
        return (step + 1) / warm_up
    if decay == "constant":
        return 1.0
    done = (step - warm_up) / max(1, total - warm_up)
    return 0.5 * (1.0 + math.cos(math.pi * done)) if decay == "cosine" else 1.0 - done
