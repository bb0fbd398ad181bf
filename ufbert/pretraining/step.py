"""One optimiser step of pretraining: its data, its masks, its micro-batches and its update."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from ufbert.model.heads import IGNORED_LABEL, UltraFastBertForMaskedLM
from ufbert.settings.sections import TrainingSettings
from ufbert.system.devices import autocast
from ufbert.system.processes import World
from ufbert.text.corpus import TokenBlocks, epoch_order
from ufbert.text.masking import mask_tokens
from ufbert.training.optimization import set_learning_rate

__all__ = ["BlockOrder", "StepResult", "TrainingStep"]

# Streams of random numbers that one seed and one step give.
MASKS, DROPOUT = 0, 1


@dataclass(frozen=True)
class StepResult:
    """What a step did."""

    loss: float
    """Mean cross-entropy of the masked tokens in nats."""
    gradient_norm: float
    """Norm of the whole gradient before clipping."""
    applied: bool
    """False if loss or gradient was not finite, and the weights were left as they were."""


class BlockOrder:
    """The blocks of a run one after another: epoch after epoch, each in its own order."""

    def __init__(self, blocks: TokenBlocks, seed: int) -> None:
        self.blocks, self.seed = blocks, seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def read(self, first: int, count: int) -> npt.NDArray[np.int64]:
        """The ids of the blocks `first` to `first + count` of the run, (count, T)."""
        chosen = []
        while count:
            epoch, start = divmod(first, len(self.blocks))
            if epoch != self._epoch:
                self._epoch, self._order = epoch, epoch_order(len(self.blocks), epoch, self.seed)
            part = self._order[start : start + count]
            chosen.append(part)
            first, count = first + len(part), count - len(part)
        return self.blocks[np.concatenate(chosen)]


class TrainingStep:
    """Takes steps. Everything random in one follows from the seed, the step's number and the rank."""

    def __init__(
        self,
        model: UltraFastBertForMaskedLM,
        optimizer: torch.optim.Optimizer,
        training: TrainingSettings,
        blocks: TokenBlocks,
        *,
        mask_id: int,
        special_ids: list[int],
        dtype: torch.dtype,
        world: World,
    ) -> None:
        self.model, self.optimizer, self.training = model, optimizer, training
        self.order = BlockOrder(blocks, training.seed)
        self.mask_id, self.special_ids = mask_id, special_ids
        self.dtype, self.world = dtype, world
        self.parameters = [p for p in model.parameters() if p.requires_grad]

    def take(
        self, step: int, first: int, batch: int, learning_rate: float, stop: Callable[[], bool] = lambda: False
    ) -> StepResult | None:
        """Train on the run's sequences `first` to `first + batch` as its step number `step`, from 0.

        None if `stop()` became true before the last micro-batch: the weights are then as they were, and
        the same call does the step again. Several processes share the micro-batches and do not stop early.
        """
        device, seed = self.model.device, self.training.seed
        rng = torch.Generator().manual_seed(_derive(seed, step, MASKS))
        input_ids, labels = mask_tokens(
            self.order.read(first, batch),
            self.special_ids,
            self.mask_id,
            self.model.config.vocab_size,
            self.training.mlm_probability,
            rng,
        )  # both (batch, T)
        positions = int((labels != IGNORED_LABEL).sum())
        torch.manual_seed(_derive(seed, step, DROPOUT + self.world.rank))
        self.optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros(1, device=device)
        starts = list(range(0, batch, self.training.micro_batch_size))
        for start in starts[self.world.rank :: self.world.size]:
            if self.world.size == 1 and start and stop():
                return None
            part = slice(start, start + self.training.micro_batch_size)
            # Each micro-batch counts by its masked positions, as if the batch had been one.
            share = int((labels[part] != IGNORED_LABEL).sum()) / max(1, positions)
            with autocast(device, self.dtype):
                output = self.model(
                    input_ids[part].to(device, non_blocking=True), labels=labels[part].to(device, non_blocking=True)
                )
                scaled = output.loss * share
            scaled.backward()
            loss += scaled.detach()
        if self.world.size > 1:
            for parameter in self.parameters:
                if parameter.grad is None:  # a process without a micro-batch in this step
                    parameter.grad = torch.zeros_like(parameter)
            self.world.sum_([loss, *(p.grad for p in self.parameters if p.grad is not None)])
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.training.gradient_clip or math.inf))
        mean = float(loss)
        applied = math.isfinite(mean) and math.isfinite(norm)
        if applied:
            set_learning_rate(self.optimizer, learning_rate)
            self.optimizer.step()
        return StepResult(mean, norm, applied)


def _derive(seed: int, step: int, stream: int) -> int:
    """A seed for torch that differs between all steps and streams."""
    return int(np.random.SeedSequence([seed, step, stream]).generate_state(1, np.uint64)[0] >> np.uint64(1))
