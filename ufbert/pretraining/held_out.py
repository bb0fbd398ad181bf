"""The held-out loss: the same masks over the same blocks every time, so that values can be compared."""

from __future__ import annotations

import numpy as np
import torch

from ufbert.model.heads import IGNORED_LABEL, UltraFastBertForMaskedLM
from ufbert.system.devices import autocast
from ufbert.text.corpus import TokenBlocks
from ufbert.text.masking import mask_tokens

__all__ = ["HeldOut"]

# Its own seed: runs with different seeds are measured on the same masks.
MASK_SEED = 20231115


class HeldOut:
    """Masked blocks that are never trained on."""

    def __init__(
        self,
        blocks: TokenBlocks,
        limit: int,
        *,
        special_ids: list[int],
        mask_id: int,
        vocab_size: int,
        probability: float,
    ) -> None:
        """Up to `limit` of `blocks`, evenly spread; 0 takes all."""
        count = min(len(blocks), limit or len(blocks))
        chosen = np.linspace(0, len(blocks), count, endpoint=False).astype(np.int64)
        rng = torch.Generator().manual_seed(MASK_SEED)
        self.input_ids, self.labels = mask_tokens(
            blocks[chosen], special_ids, mask_id, vocab_size, probability, rng
        )  # both (count, T)

    def __len__(self) -> int:
        return len(self.input_ids)

    def measure(self, model: UltraFastBertForMaskedLM, batch_size: int, dtype: torch.dtype) -> float:
        """Mean cross-entropy in nats over the masked positions; the model's mode is kept."""
        was_training = model.training
        model.eval()
        total, positions = 0.0, 0
        with torch.inference_mode(), autocast(model.device, dtype):
            for start in range(0, len(self), batch_size):
                labels = self.labels[start : start + batch_size]
                count = int((labels != IGNORED_LABEL).sum())
                output = model(
                    self.input_ids[start : start + batch_size].to(model.device),
                    labels=labels.to(model.device),
                )
                total += float(output.loss) * count
                positions += count
        model.train(was_training)
        return total / max(1, positions)
