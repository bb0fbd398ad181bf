"""Multi-head self-attention with a fused query-key-value projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .config import UltraFastBertConfig
from .positions import alibi_bias, rotate

__all__ = ["SelfAttention", "join_heads", "split_heads"]


class SelfAttention(nn.Module):
    """softmax(q k / sqrt(head size)) v over all positions whose mask is 1; with `alibi`, of the biased scores.

    With fewer key-value heads than heads, neighbouring heads share one: grouped-query attention (Ainslie et al. 2023,
    arXiv 2305.13245). `qkv.weight` (H + 2 * key-value heads * head size, H) holds the query's rows, then the key's,
    then the value's: 3 * H rows where every head has its own.
    """

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.key_value_heads = config.key_value_heads
        self.alibi = config.alibi
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, config.query_key_value_width, bias=config.use_bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None,
        bias: torch.Tensor | None = None,
        rotation: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """x (B, T, H) -> (B, T, H); the others are the parts of a `View`, None for no mask, no bias, no rotation."""
        batch, length, hidden = x.shape
        query, key, value = split_heads(self.qkv(x), batch, self.heads, self.key_value_heads, rotation)
        dropout = self.dropout if self.training else 0.0
        if self.alibi:
            own = alibi_bias(self.heads, length, query.dtype, query.device)
            bias = own if bias is None else bias + own
        if mask is not None and mask.shape[-2] != 1 and self.heads != self.key_value_heads:
            mask = torch.cat([mask] * (self.heads // self.key_value_heads), -2)
        if bias is not None:
            bias = bias.to(query.dtype).reshape(self.key_value_heads, -1, length)
            mask = bias if mask is None else torch.where(mask, bias, torch.finfo(bias.dtype).min)
        attend = _attend_by_products if _products_are_faster(query) else F.scaled_dot_product_attention
        context = attend(query, key, value, attn_mask=mask, dropout_p=dropout)
        result: torch.Tensor = self.output(join_heads(context, length).view(batch, length, hidden))
        return result


def split_heads(
    qkv: torch.Tensor, batch: int, heads: int, key_value_heads: int, rotation: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """qkv, B texts of T tokens, -> query (B, G, heads / G * T, size), key and value (B, G, T, size), G key-value heads.

    The queries of the heads that share a key stand one head after the other, as if they were one longer text.
    """
    size = qkv.shape[-1] // (heads + 2 * key_value_heads)
    every = qkv.view(batch, -1, heads + 2 * key_value_heads, size).transpose(1, 2)  # (B, all heads, T, size)
    query, key, value = every.split((heads, key_value_heads, key_value_heads), 1)
    if rotation is not None:
        query, key = rotate(query, rotation), rotate(key, rotation)
    if heads != key_value_heads:
        query = query.reshape(batch, key_value_heads, -1, size)
    return query, key, value


def join_heads(context: torch.Tensor, length: int) -> torch.Tensor:
    """context (B, G, heads / G * T, size), as `split_heads` has queries, T being `length`, -> (B * T, heads * size)."""
    batch, _, _, size = context.shape
    return context.reshape(batch, -1, length, size).transpose(1, 2).reshape(batch * length, -1)


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
    """The same function as `F.scaled_dot_product_attention`, operands (B, G, ..., size); a float mask is added."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)
    if attn_mask is not None:
        if attn_mask.is_floating_point():
            scores = scores + attn_mask
        else:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    return F.dropout(scores.softmax(-1), dropout_p) @ value
