"""What a model keeps of the original's quality before any training: its closed-form layers put into the whole."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import nn

from ufbert.conversion.distillation.batch import Batch
from ufbert.conversion.distillation.heads import Head
from ufbert.conversion.distillation.left_out import LeftOut
from ufbert.conversion.distillation.token_rows import RankedTokens
from ufbert.model.encoder import Layer, UltraFastBertModel
from ufbert.model.pooling import pool

from .errors import BesideRows, Fitted

__all__ = ["ExpectedQuality", "stored"]


def stored(fitted: Fitted) -> Fitted:
    """The same with weights in bfloat16, half the memory, as many are kept until one is put into the model."""
    if isinstance(fitted, LeftOut):
        return fitted
    if isinstance(fitted, BesideRows):
        neurons = None if fitted.neurons is None else fitted.neurons.bfloat16()
        return BesideRows(neurons, fitted.rows.bfloat16())
    return fitted.bfloat16()


class ExpectedQuality:
    """Compares models with the original on some held-out texts, in float32.

    By the mean cosine of the texts' embeddings, or with a head by the share of its rows with the same answer.
    """

    @torch.no_grad()
    def __init__(
        self,
        teacher: UltraFastBertModel,
        batches: Iterable[Batch],
        pooling: str,
        head: Head | None = None,
        tokens: RankedTokens | None = None,
    ) -> None:
        """`tokens` are for layers with token rows."""
        self.tokens = tokens
        self.teacher, self.pooling, self.head = teacher, pooling, head
        self._wanted = [(batch, self._outputs(teacher, batch)) for batch in batches]

    @torch.no_grad()
    def of(self, replaced: Mapping[int, Fitted]) -> float:
        """Of the original with some of its feedforward layers replaced, by their numbers; at most 1."""
        layers = self.teacher.layers
        own = {index: layers[index] for index in replaced}
        embeddings = self.teacher.embeddings
        own_ranks = embeddings.token_ranks
        if self.tokens is not None:
            embeddings.token_ranks = self.tokens.ranks
        total, rows = 0.0, 0
        try:
            for index, fitted in replaced.items():
                layers[index] = _with(own[index], fitted)
            for batch, wanted in self._wanted:
                outputs = self._outputs(self.teacher, batch)
                alike = F.cosine_similarity(outputs, wanted) if self.head is None else self.head.agrees(outputs, wanted)
                total += float(alike.sum())
                rows += len(wanted)
        finally:
            embeddings.token_ranks = own_ranks
            for index, layer in own.items():
                layers[index] = layer
        return total / max(1, rows)

    def _outputs(self, encoder: UltraFastBertModel, batch: Batch) -> torch.Tensor:
        """Embeddings (B, H), or the head's outputs (rows, K)."""
        hidden = encoder.encode(batch.input_ids, batch.attention_mask, batch.token_type_ids).float()
        if self.head is None:
            return pool(hidden, batch.attention_mask, self.pooling)
        return self.head.logits(hidden, batch)


def _with(layer: nn.Module, fitted: Fitted) -> Layer:
    """A copy of the original's layer with another feedforward layer, or none."""
    copied = copy.deepcopy(layer)
    assert isinstance(copied, Layer)
    if isinstance(fitted, LeftOut):
        copied.feedforward = copied.feedforward_norm = None
        fitted.put_into(copied)
    elif isinstance(fitted, BesideRows):
        copied.feedforward = None if fitted.neurons is None else copy.deepcopy(fitted.neurons).float()
        copied.token_rows = copy.deepcopy(fitted.rows).float()
    else:
        copied.feedforward = copy.deepcopy(fitted).float()
    return copied
