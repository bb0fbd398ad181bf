"""Multi-head self-attention with a fused query-key-value projection."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from .config import UltraFastBertConfig

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """softmax(q k / sqrt(head size)) v over all positions whose mask is 1.

    `qkv.weight` (3 * H, H) holds the query's rows, then the key's, then the value's.
    """

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.dropout = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.use_bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """x (B, T, H); mask (B, 1, 1, T), True where a position may be attended to, or None for all."""
        batch, length, hidden = x.shape
        qkv = self.qkv(x).view(batch, length, 3, self.heads, hidden // self.heads)  # (B, T, 3, heads, size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # 3 x (B, heads, T, size)
        context = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=self.dropout if self.training else 0.0
        )
        joined = context.transpose(1, 2).reshape(batch, length, hidden)  # (B, T, H)
        result: torch.Tensor = self.output(joined)
        return result
