"""One optimiser step of pretraining: its micro-batches and its update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.settings.sections import TrainingSettings
from ufbert.system.devices import autocast
from ufbert.system.processes import World
from ufbert.training.optimization import set_learning_rate

from .batches import MicroBatches

__all__ = ["StepResult", "TrainingStep"]

# The stream of random numbers of the first process's dropout; each further process has the next.
DROPOUT = 1


@dataclass(frozen=True)
class StepResult:
    """What a step did."""

    loss: float
    """Mean cross-entropy of the masked tokens in nats."""
    gradient_norm: float
    """Norm of the whole gradient before clipping."""
    applied: bool
    """False if loss or gradient was not finite, and the weights were left as they were."""


class TrainingStep:
    """Takes steps. Dropout follows from the seed, the step's number and the rank, the data from the sequences'."""

    def __init__(
        self,
        model: UltraFastBertForMaskedLM,
        optimizer: torch.optim.Optimizer,
        batches: MicroBatches,
        training: TrainingSettings,
        dtype: torch.dtype,
        world: World,
    ) -> None:
        self.model, self.optimizer, self.batches, self.training = model, optimizer, batches, training
        self.dtype, self.world = dtype, world
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def take(
        self, step: int, first: int, batch: int, learning_rate: float, stop: Callable[[], bool] = lambda: False
    ) -> StepResult | None:
        """Train on the run's sequences `first` to `first + batch` as its step number `step`, from 0.

        None if `stop()` became true before the last micro-batch: the weights are then as they were, and
        the same call does the step again. Several processes share the micro-batches and do not stop early.
        """
        world, micro, end = self.world, self.training.micro_batch_size, first + batch
        predicted = self.batches.count_predicted(first, batch)
        torch.manual_seed(_derive(self.training.seed, step, DROPOUT + world.rank))
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros(1, device=self.model.device)
        for start in range(first + world.rank * micro, end, world.size * micro):
            if world.size == 1 and start > first and stop():
                return None
            micro_batch = self.batches.read(start, min(micro, end - start))
            # While the GPU works on this one: the next of this step, or what will likely begin the next step.
            following = start + world.size * micro
            own = following if following < end else end + world.rank * micro
            self.batches.announce(own, min(micro, end - own) if own < end else micro)
            # Each micro-batch counts by its masked positions, as if the batch had been one.
            share = len(micro_batch.labelled) / max(1, predicted)
            with autocast(self.model.device, self.dtype):
                output = self.model(micro_batch.input_ids, labels=micro_batch.labels, labelled=micro_batch.labelled)
                scaled = output.loss * share
            scaled.backward()
            loss += scaled.detach()
        if world.size > 1:
            for parameter in self.parameters:
                if parameter.grad is None:  # a process without a micro-batch in this step
                    parameter.grad = torch.zeros_like(parameter)
            world.sum_([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.training.gradient_clip or math.inf))
        mean = float(loss)
        applied = math.isfinite(mean) and math.isfinite(norm)
        if applied:
            set_learning_rate(learning_rate, self.optimizer)
            self.optimizer.step()
        return StepResult(mean, norm, applied)


def _derive(seed: int, step: int, stream: int) -> int:
    """A seed for torch that differs between all steps and streams."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
