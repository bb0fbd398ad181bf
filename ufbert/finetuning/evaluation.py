"""What a classification model says of rows."""

from __future__ import annotations

import torch

from ufbert.model.heads import UltraFastBertForSequenceClassification
from ufbert.system.devices import autocast
from ufbert.text.batching import length_batches

from .sequence_batches import Sequences

__all__ = ["EVALUATION_BATCH_SIZE", "predict_logits"]

EVALUATION_BATCH_SIZE = 64


def predict_logits(
    model: UltraFastBertForSequenceClassification, sequences: Sequences, device: torch.device, dtype: torch.dtype
) -> torch.Tensor:
    """The scores of all rows, (rows, num_labels) in float32 on the CPU; leaves the model in evaluation mode."""
    config = model.config
    model.eval()
    logits = torch.empty(len(sequences), config.num_labels)
    with torch.inference_mode(), autocast(device, dtype):
        for rows in length_batches(sequences.lengths, EVALUATION_BATCH_SIZE, 0):
            batch = sequences.batch(rows.tolist(), config.pad_token_id, config.type_vocab_size > 1)
            logits[rows] = model(**{k: v.to(device) for k, v in batch.items()}).logits.float().cpu()
    return logits
