"""Self-attention over texts of one length, without padding."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ufbert.model.attention import SelfAttention, join_heads, split_heads

from .linear import Int8Linear, PackedLinear

__all__ = ["Group", "GroupView", "PackedAttention"]

# Beyond that the (length, length) weights of a head leave the caches.
LONGEST_BY_PRODUCTS = 512
SHORT_ROWS = 64
ALIGNED_ITEMS = 16
PIECE = 128
"""Queries of local attention that are taken at once."""


class GroupView(NamedTuple):
    """What the attention of a layer is given of a group's positions."""

    bias: torch.Tensor | None = None
    """Added to the scores, (key-value heads, heads to one of them * length, length)."""
    rotation: torch.Tensor | None = None
    """Turns queries and keys, (2, length, size)."""


class Group(NamedTuple):
    """Neighbouring texts of one length, and what layers share of it."""

    texts: int
    length: int
    everywhere: GroupView = GroupView()
    nearby: GroupView = GroupView()
    """Of the local layers."""


class PackedAttention(nn.Module):
    """`SelfAttention` on tokens (total, H) whose texts are `groups`; 1/sqrt(size) is folded into the query's rows.

    In a local layer a token sees `window` tokens to either side; None for all.
    """

    def __init__(
        self,
        attention: SelfAttention,
        qkv: PackedLinear | Int8Linear,
        output: PackedLinear | Int8Linear,
        window: int | None,
        *,
        loads_kernels: bool,
    ) -> None:
        """`loads_kernels` says that the model needs our kernels anyway, so that short texts can have them too."""
        super().__init__()
        self.loads_kernels = loads_kernels
        self.heads, self.key_value_heads = attention.heads, attention.key_value_heads
        self.qkv, self.output = qkv, output
        self.window = window

    def forward(self, x: torch.Tensor, groups: list[Group], residual: torch.Tensor) -> torch.Tensor:
        """x and residual (rows, H) -> residual + attention(x); of rows behind those of `groups` something finite."""
        qkv = self.qkv(x)  # (total, H + 2 key-value heads * size)
        parts = []
        start = 0
        for texts, length, everywhere, nearby in groups:
            bias, rotation = everywhere if self.window is None else nearby
            tokens = qkv[start : start + texts * length]
            heads = split_heads(tokens, texts, self.heads, self.key_value_heads, rotation)
            if self.window is None or self.window >= length - 1:
                context = self._attend(*heads, bias)
            else:
                context = self._attend_nearby(*heads, bias, self.window)
            parts.append(join_heads(context, length))
            start += texts * length
        if start < len(x):
            parts.append(x.new_zeros((len(x) - start, x.shape[1])))
        context = parts[0] if len(parts) == 1 else torch.cat(parts)
        result: torch.Tensor = self.output(context, residual)
        return result

    def _attend_nearby(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None, window: int
    ) -> torch.Tensor:
        """`_attend`, each token seeing `window` tokens to either side: by pieces, so that work grows as the length."""
        length = key.shape[2]
        shared = query.shape[2] // length  # heads to one of the keys
        by_head = query.unflatten(2, (shared, length))
        parts = []
        for start in range(0, length, PIECE):
            stop = min(start + PIECE, length)
            first, last = max(0, start - window), min(length, stop + window)
            distance = torch.arange(start, stop)[:, None] - torch.arange(first, last)
            added = torch.zeros(distance.shape, dtype=query.dtype).masked_fill_(distance.abs() > window, -math.inf)
            if bias is None:
                added = added.repeat(shared, 1)
            else:
                part = bias.unflatten(1, (shared, length))[:, :, start:stop, first:last]
                added = (part + added).flatten(1, 2)  # (G, shared * queries, keys)
            seen = slice(first, last)
            piece = self._attend(by_head[:, :, :, start:stop].flatten(2, 3), key[:, :, seen], value[:, :, seen], added)
            parts.append(piece.unflatten(2, (shared, -1)))
        return torch.cat(parts, 3).flatten(2, 3)

    def _attend(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor | None
    ) -> torch.Tensor:
        """Operands as `split_heads` gives them, a bias on the scores (G, queries, length) -> as query.

        In bfloat16, products and softmax of their own take 45 % of the time of torch's fused attention on a CPU, as
        that multiplies in float32: 2.8 ms against 6.7 for 16 texts of 128 tokens, 12 heads, two Zen 5 cores.
        """
        texts, heads, queries, size = query.shape
        length = key.shape[2]
        if query.dtype == torch.bfloat16 and length <= LONGEST_BY_PRODUCTS:
            query, key, value = (part.reshape(texts * heads, -1, size) for part in (query, key, value))
            weights = torch.bmm(query, key.transpose(1, 2))  # (texts * heads, queries, length)
            if bias is not None:
                weights.view(texts, heads, queries, length).add_(bias)
            if self.loads_kernels or length >= SHORT_ROWS:
                _softmax(weights)
            else:
                # Of short rows torch's bfloat16 softmax takes longer than float32's and both conversions.
                weights = weights.float().softmax(-1).bfloat16()
            return torch.bmm(weights, value).view(texts, heads, queries, size)
        # The BLAS within gives other last bits where a row does not begin with a cache line: zeros see to that.
        if gap := -size % ALIGNED_ITEMS:
            query, key, value = (F.pad(part, (0, gap)) for part in (query, key, value))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)[..., :size]


def _softmax(weights: torch.Tensor) -> None:
    """Softmax of the rows of contiguous bfloat16 weights, in place."""
    from ufbert import numba_kernels

    columns = weights.shape[-1]
    numba_kernels.softmax_rows_at(weights.data_ptr(), weights.numel() // columns, columns, torch.get_num_threads())
