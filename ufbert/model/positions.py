"""Where tokens stand: the fixed table of the embeddings, and what attention knows of it, which layers share."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from .config import UltraFastBertConfig

__all__ = [
    "View",
    "alibi_bias",
    "nearby",
    "relative_bias",
    "relative_position_buckets",
    "rotate",
    "rotation",
    "rotation_of",
    "sinusoids",
]


class View(NamedTuple):
    """What one layer's attention is given beside its input, `SelfAttention.forward`'s other operands in their order."""

    mask: torch.Tensor | None
    """True where a position may be attended to, (B, 1, 1, T); in a local layer (B, 1, T, T) or (T, T)."""
    bias: torch.Tensor | None = None
    """Added to the scores, (heads, T, T)."""
    rotation: torch.Tensor | None = None
    """Turns queries and keys, as `rotation` gives it."""


def sinusoids(length: int, hidden_size: int) -> torch.Tensor:
    """Fixed position table (length, hidden_size): sine in the even columns, cosine in the odd ones.

    Source: Vaswani et al. 2017, section 3.5.
    """
    position = torch.arange(length, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, hidden_size, 2, dtype=torch.float32) * (-math.log(10000.0) / hidden_size))
    table = torch.zeros(length, hidden_size)
    table[:, 0::2] = torch.sin(position * frequency)
    table[:, 1::2] = torch.cos(position * frequency[: hidden_size // 2])
    return table


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


def nearby(length: int, distance: int, device: torch.device) -> torch.Tensor:
    """(T, T), True where a key is at most `distance` tokens from the query."""
    position = torch.arange(length, device=device)
    return (position[:, None] - position).abs() <= distance


def rotation(size: int, theta: float, factor: float, positions: torch.Tensor) -> torch.Tensor:
    """Cosine and sine of the angles by which heads of `size` numbers turn at `positions` (..., T): (2, ..., T, size).

    Number i turns with number i + size / 2, by theta^(-2 i / size) / factor a position. Source: Su et al. 2021
    (RoFormer, arXiv 2104.09864), section 3.2.2; the pairs are those of GPT-NeoX.
    """
    frequency = 1.0 / theta ** (torch.arange(0, size, 2, device=positions.device).float() / size) / factor
    angle = positions[..., None].float() * frequency
    angle = torch.cat((angle, angle), -1)
    return torch.stack((angle.cos(), angle.sin()))


def rotate(x: torch.Tensor, turn: torch.Tensor) -> torch.Tensor:
    """x (B, heads, T, size), turned as `rotation` says, in x's dtype."""
    cosine, sine = turn.unbind(0)
    wide = x.float()
    first, second = wide.chunk(2, -1)
    return (wide * cosine + torch.cat((-second, first), -1) * sine).to(x.dtype)


def relative_bias(config: UltraFastBertConfig, biases: nn.Embedding | None, length: int) -> torch.Tensor | None:
    """What the distances of `length` tokens add to the scores, (heads, T, T), out of a table (buckets, heads)."""
    if biases is None:
        return None
    buckets = relative_position_buckets(
        length, biases.num_embeddings, config.relative_attention_max_distance, biases.weight.device
    )
    bias: torch.Tensor = biases(buckets).permute(2, 0, 1)
    return bias


def rotation_of(config: UltraFastBertConfig, positions: torch.Tensor, *, local: bool) -> torch.Tensor | None:
    """How a layer turns queries and keys at `positions` (..., T), or None where the model has no rotary positions."""
    if config.position_embedding_type != "rotary":
        return None
    theta = config.local_rope_theta if local else config.rope_theta
    return rotation(config.head_size, theta, config.rope_scaling_factor, positions)
