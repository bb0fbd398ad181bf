"""The held-out loss: the same masks over the same blocks every time, so that values can be compared."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ufbert.model.heads import UltraFastBertForMaskedLM, labelled_positions
from ufbert.model.tree_health import LeafRecorder
from ufbert.system.devices import autocast
from ufbert.text.corpus import TokenBlocks

from .batches import Masking

__all__ = ["HeldOut", "Measurement"]

# Its own seed: runs with different seeds are measured on the same masks.
MASK_SEED = 20231115
# Tokens whose leaves are counted: enough for trees of 2,048 leaves. They walk the trees once more, and nothing else.
HEALTH_TOKENS = 8192


@dataclass(frozen=True)
class Measurement:
    """What the held-out text says of a model."""

    loss: float
    """Mean cross-entropy in nats over the masked positions."""
    tree_health: list[dict[str, Any]]
    """`LeafRecorder.health` over some of the text; empty for a model without trees."""


class HeldOut:
    """Masked blocks that are never trained on."""

    def __init__(self, blocks: TokenBlocks, limit: int, masking: Masking) -> None:
        """Up to `limit` of `blocks`, evenly spread; 0 takes all."""
        count = min(len(blocks), limit or len(blocks))
        chosen = np.linspace(0, len(blocks), count, endpoint=False).astype(np.int64)
        rng = torch.Generator().manual_seed(MASK_SEED)
        self.input_ids, self.labels = masking.apply(blocks[chosen], rng=rng)  # both (count, T)

    def __len__(self) -> int:
        return len(self.input_ids)

    def measure(self, model: UltraFastBertForMaskedLM, batch_size: int, dtype: torch.dtype) -> Measurement:
        """The loss over all of the text, and the health of the trees; the model's mode is kept."""
        was_training = model.training
        model.eval()
        recorder = LeafRecorder(model)
        # The blocks lie in the order of the text, so that every so-manieth batch stands for all of it.
        every = max(1, self.input_ids.numel() // HEALTH_TOKENS)
        total, positions = torch.zeros((), dtype=torch.float64, device=model.device), 0
        with torch.inference_mode(), autocast(model.device, dtype):
            for number, start in enumerate(range(0, len(self), batch_size)):
                labels = self.labels[start : start + batch_size]
                labelled = labelled_positions(labels)
                with recorder.record() if number % every == 0 else contextlib.nullcontext():
                    output = model(
                        self.input_ids[start : start + batch_size].to(model.device),
                        labels=labels.to(model.device),
                        labelled=labelled.to(model.device),
                    )
                total += output.loss.double() * len(labelled)
                positions += len(labelled)
        model.train(was_training)
        return Measurement(float(total) / max(1, positions), recorder.health())
