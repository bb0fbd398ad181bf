"""Hidden states of tokens to one vector of a text, the same for classifiers, embeddings and distillation."""

from __future__ import annotations

import itertools

import torch

__all__ = ["pool", "pool_by_length"]


def pool(
    hidden: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str, prompt_tokens: int = 0
) -> torch.Tensor:
    """hidden (B, T, H), mask (B, T) -> (B, H), in `hidden`'s dtype.

    `pooling` names, with sentence-transformers, over a row's tokens, special ones included and padding left out:
    `cls` (or `first`), the first token's state; `lasttoken`, the last one's; `max`, the largest value of each of
    the H numbers; `mean`; `mean_sqrt_len_tokens`, the sum over the square root of their number; `weightedmean`, the
    mean with a weight of 1 for the first token, 2 for the second. Several, joined by `+`, give (B, n H) in that order.
    The first `prompt_tokens` are left out, though their places count. No mask means no padding. A row without
    tokens gives zeros. Raises `KeyError` for an unknown name.
    """
    names = pooling.split("+")
    if names[0] in ("cls", "first") and len(names) == 1 and not prompt_tokens:
        return hidden[:, 0]
    if names == ["mean"] and attention_mask is None and not prompt_tokens:
        return hidden.mean(1)
    if attention_mask is None:
        attention_mask = hidden.new_ones(hidden.shape[:2], dtype=torch.int64)
    else:
        attention_mask = attention_mask.clone()
    attention_mask[:, :prompt_tokens] = 0
    weight = attention_mask[:, :, None].to(hidden.dtype)  # (B, T, 1)
    pooled = [_POOLINGS[name](hidden, weight) for name in names]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=1)


def _first(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _at(weight[:, :, 0].argmax(1), hidden, weight)


def _last(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _at(hidden.shape[1] - 1 - weight[:, :, 0].flip(1).argmax(1), hidden, weight)


def _at(place: torch.Tensor, hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, place] * weight[rows, place]


def _max(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    largest = hidden.masked_fill(weight == 0, float("-inf")).amax(1)
    return largest.masked_fill(weight.sum(1) == 0, 0.0)


def _mean(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1)


def _mean_over_square_root(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return (hidden * weight).sum(1) / weight.sum(1).clamp(min=1).sqrt()


def _weighted_mean(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    places = torch.arange(1, hidden.shape[1] + 1, device=hidden.device, dtype=hidden.dtype)[:, None]  # (T, 1)
    return _mean(hidden, weight * places)


_POOLINGS = {
    "cls": _first,
    "first": _first,
    "lasttoken": _last,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_over_square_root,
    "weightedmean": _weighted_mean,
}


def pool_by_length(
    hidden: torch.Tensor, attention_mask: torch.Tensor | None, pooling: str, prompt_tokens: int = 0
) -> torch.Tensor:
    """As `pool`, each length by itself, so that not the last bit hangs on a text's neighbours.

    Padding, though it is zeros, can change the order of a sum: of 511 tokens of width 312, padded to 512, it does.
    """
    if attention_mask is None:
        return pool(hidden, None, pooling, prompt_tokens)
    pooled = []
    start = 0
    for length, run in itertools.groupby(attention_mask.sum(1).tolist()):
        stop = start + len(list(run))
        pooled.append(pool(hidden[start:stop, :length], None, pooling, prompt_tokens))
        start = stop
    return torch.cat(pooled)
