"""Attention by products, the faster way in bfloat16 training on a CPU, is the function torch computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ufbert.model.attention import LONGEST_BY_PRODUCTS, SelfAttention, _attend_by_products, _products_are_faster
from ufbert.model.config import UltraFastBertConfig


def operands(dtype: torch.dtype) -> list[torch.Tensor]:
    """Query, key and value (2, 3, 10, 8)."""
    torch.manual_seed(0)
    return [torch.randn(2, 3, 10, 8, dtype=dtype, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("masked", [False, True])
def test_products_give_torchs_attention_and_gradients(masked: bool) -> None:
    mask = torch.rand(2, 1, 1, 10) > 0.3 if masked else None
    results = []
    for attend in (F.scaled_dot_product_attention, _attend_by_products):
        query, key, value = operands(torch.float64)
        output = attend(query, key, value, attn_mask=mask, dropout_p=0.0)
        output.sin().sum().backward()
        results.append([output, query.grad, key.grad, value.grad])
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected)


def test_bfloat16_training_stays_close_to_float32() -> None:
    config = UltraFastBertConfig(hidden_size=32, num_attention_heads=2, attention_probs_dropout_prob=0.0)
    attention = SelfAttention(config)
    x = torch.randn(2, 16, 32)
    exact = attention(x, None)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention(x, None)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=2e-2, rtol=5e-2)


def test_only_bfloat16_training_on_a_cpu_goes_by_products() -> None:
    query = operands(torch.bfloat16)[0]
    assert _products_are_faster(query)
    assert not _products_are_faster(query.detach())
    assert not _products_are_faster(operands(torch.float32)[0])
    long = torch.zeros(1, 1, LONGEST_BY_PRODUCTS + 1, 4, dtype=torch.bfloat16, requires_grad=True)
    assert not _products_are_faster(long)


def test_dropout_drops_weights() -> None:
    query, key, _ = operands(torch.float32)
    value = torch.ones(2, 3, 10, 8)
    dropped = _attend_by_products(query, key, value, attn_mask=None, dropout_p=0.5)
    assert dropped.std() > 0.1  # without dropout every output is exactly 1
