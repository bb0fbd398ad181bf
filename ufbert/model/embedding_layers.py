"""What a pooled embedding passes through before it is the text's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ufbert.checkpoint.embedder import Dense, Embedder, EmbeddingLayer, LayerNorm
from ufbert.errors import CheckpointError

__all__ = ["apply_layers", "embedding_size"]


def apply_layers(layers: Sequence[EmbeddingLayer], embedding: torch.Tensor) -> torch.Tensor:
    """(B, n) -> (B, m), in float32, one layer after the other."""
    for layer in layers:
        if isinstance(layer, Dense):
            activation: nn.Module = getattr(nn, layer.activation)()
            projected = activation(F.linear(embedding, layer.weight, layer.bias))
            if layer.residual:
                shortcut = layer.shortcut
                projected = projected + (embedding if shortcut is None else F.linear(embedding, shortcut))
            embedding = projected
        elif isinstance(layer, LayerNorm):
            embedding = F.layer_norm(embedding, layer.weight.shape, layer.weight, layer.bias)
        else:
            embedding = F.normalize(embedding, dim=-1)
    return embedding


def embedding_size(embedder: Embedder, hidden_size: int) -> int:
    """The numbers of an embedding, not yet truncated. Raises `CheckpointError` where layers do not fit together."""
    size = hidden_size * len(embedder.pooling.split("+"))
    for layer in embedder.layers:
        expected = size
        if isinstance(layer, Dense):
            expected = layer.weight.shape[1]
        elif isinstance(layer, LayerNorm):
            expected = len(layer.weight)
        if expected != size:
            raise CheckpointError(
                f"the layer {layer} behind the pooling {embedder.pooling} takes {expected} numbers, but gets {size}; "
                "they do not belong together"
            )
        if isinstance(layer, Dense):
            size = layer.weight.shape[0]
    return size
