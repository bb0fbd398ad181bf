"""Multi-head self-attention with a fused query-key-value projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .config import UltraFastBertConfig

__all__ = ["SelfAttention", "alibi_bias"]


class SelfAttention(nn.Module):
    """softmax(q k / sqrt(head size)) v over all positions whose mask is 1; with `alibi`, of the biased scores.

    `qkv.weight` (3 * H, H) holds the query's rows, then the key's, then the value's.
    """

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.alibi = config.alibi
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.use_bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """x (B, T, H); mask (B, 1, 1, T), True where a position may be attended to, or None for all."""
        batch, length, hidden = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, hidden // self.heads)  # (B, T, 3, heads, size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, T, size)
        dropout = self.dropout if self.training else 0.0
        if self.alibi:
            bias = alibi_bias(self.heads, length, query.dtype, query.device)
            mask = bias if mask is None else torch.where(mask, bias, torch.finfo(bias.dtype).min)
        attend = _attend_by_products if _products_are_faster(query) else F.scaled_dot_product_attention
        context = attend(query, key, value, attn_mask=mask, dropout_p=dropout)  # (B, heads, T, size)
        joined = context.transpose(1, 2).reshape(batch, length, hidden)  # (B, T, H)
        result: torch.Tensor = self.output(joined)
        return result


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


# Measured up to 512 tokens; beyond that the (T, T) weights cost more memory than a CPU's caches hold.
LONGEST_BY_PRODUCTS = 512


def _products_are_faster(query: torch.Tensor) -> bool:
    """Whether two batched products beat torch's fused attention, as in bfloat16 training on a CPU.

    There the fused backward does not use the processor's bfloat16 products: forward and backward of
    (32, 4, 128, 64) take 48.6 ms of one Zen 5 core, by products 11.5 ms.
    """
    return (
        query.requires_grad
        and query.device.type == "cpu"
        and query.dtype == torch.bfloat16
        and query.shape[2] <= LONGEST_BY_PRODUCTS
    )


def _attend_by_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *, attn_mask: torch.Tensor | None, dropout_p: float
) -> torch.Tensor:
    """The same function as `F.scaled_dot_product_attention`, operands (B, heads, T, size); a float mask is added."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # (B, heads, T, T)
    if attn_mask is not None:
        if attn_mask.is_floating_point():
            scores = scores + attn_mask
        else:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(-1), dropout_p) @ value
