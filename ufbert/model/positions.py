"""What attention knows of where tokens stand: functions of their positions alone, which layers share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

__all__ = ["View", "alibi_bias", "relative_position_buckets"]


class View(NamedTuple):
    """What one layer's attention is given beside its input, `SelfAttention.forward`'s other operands in their order."""

    mask: torch.Tensor | None
    """True where a position may be attended to, (B, 1, 1, T)."""
    bias: torch.Tensor | None = None
    """Added to the scores, (heads, T, T)."""


def alibi_bias(heads: int, length: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """What is added to the scores of each head, (heads, T, T): -2^(-8 h / heads) times the distance, h from 0.

    The first heads so begin near their own token, the last ones everywhere. Source: Press, Smith & Lewis 2022
    (arXiv 2108.12409), section 3; here in both directions, and h from 0 where the paper begins at 1, since the steepest
    of few heads is what a short training learns by: 4 layers of 128 with 4 heads stand at 5.70 nats after a million
    tokens where that has a slope of 1, at 5.99 with 1/4, and without any at 6.12 after 1.2 million.
    """
    slopes = torch.exp2(torch.arange(heads, device=device) * (-8.0 / heads))
    position = torch.arange(length, device=device)
    distance = (position[:, None] - position).abs()
    return (-slopes[:, None, None] * distance).to(dtype)


def relative_position_buckets(length: int, buckets: int, max_distance: int, device: torch.device) -> torch.Tensor:
    """The bucket of each key's distance from each query, (T, T): the first half for keys before it, the other behind.

    Of a half's buckets the first half holds one distance each, the rest grow with the logarithm of the distance up to
    `max_distance`, and the last one holds all beyond. Source: Raffel et al. 2020 (T5, arXiv 1910.10683), section 2.1.
    """
    position = torch.arange(length, device=device)
    offset = position - position[:, None]  # (T, T), key less query
    distance = offset.abs()
    half = buckets // 2
    exact = half // 2
    share = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = (exact + (share * (half - exact)).long()).clamp(max=half - 1)
    return half * (offset > 0) + torch.where(distance < exact, distance, far)
