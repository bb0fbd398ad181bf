"""Hidden states of tokens to one vector of a text, the same for classifiers, embeddings and distillation."""

from __future__ import annotations

import itertools

import torch

__all__ = ["pool", "pool_by_length"]

FIRST = ("first", "cls")


def pool(hidden: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """hidden (B, T, H), mask (B, T) -> (B, H), in `hidden`'s dtype.

    `pooling` is `first`, which sentence-transformers calls `cls`: the first token's state; or `mean`: the mean over
    the tokens, special ones included, padding left out. No mask means no padding. A row without tokens gives zeros.
    """
    if pooling in FIRST:
        return hidden[:, 0]
    if attention_mask is None:
        return hidden.mean(1)
    weight = attention_mask[:, :, None].to(hidden.dtype)
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def pool_by_length(hidden: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """As `pool`, each length by itself, so that not the last bit hangs on a text's neighbours; padding stands behind.

    Padding, though it is zeros, can change the order of a sum: of 511 tokens of width 312, padded to 512, it does.
    """
    if attention_mask is None or pooling in FIRST:
        return pool(hidden, None, pooling)
    pooled = []
    start = 0
    for length, run in itertools.groupby(attention_mask.sum(1).tolist()):
        stop = start + len(list(run))
        pooled.append(pool(hidden[start:stop, :length], None, pooling))
        start = stop
    return torch.cat(pooled)
