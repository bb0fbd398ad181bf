"""The held-out loss: the same masks over the same blocks every time, so that values can be compared."""

from __future__ import annotations

import numpy as np
import torch

from ufbert.model.heads import UltraFastBertForMaskedLM, labelled_positions
from ufbert.system.devices import autocast
from ufbert.text.corpus import TokenBlocks

from .batches import Masking

__all__ = ["HeldOut"]

# Its own seed: runs with different seeds are measured on the same masks.
MASK_SEED = 20231115


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

    def measure(self, model: UltraFastBertForMaskedLM, batch_size: int, dtype: torch.dtype) -> float:
        """Mean cross-entropy in nats over the masked positions; the model's mode is kept."""
        was_training = model.training
        model.eval()
        total, positions = torch.zeros((), dtype=torch.float64, device=model.device), 0
        with torch.inference_mode(), autocast(model.device, dtype):
            for start in range(0, len(self), batch_size):
                labels = self.labels[start : start + batch_size]
                labelled = labelled_positions(labels)
                output = model(
                    self.input_ids[start : start + batch_size].to(model.device),
                    labels=labels.to(model.device),
                    labelled=labelled.to(model.device),
                )
                total += output.loss.double() * len(labelled)
                positions += len(labelled)
        model.train(was_training)
        return float(total) / max(1, positions)
