"""Attention by products, the faster way in bfloat16 training on a CPU, is the function torch computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ufbert.model.attention import (
    LONGEST_BY_PRODUCTS,
    SelfAttention,
    _attend_by_products,
    _products_are_faster,
)
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.positions import alibi_bias


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


@pytest.mark.parametrize("masked", [False, True])
def test_alibi_lowers_scores_by_the_distance(masked: bool) -> None:
    config = UltraFastBertConfig(hidden_size=32, num_attention_heads=4, alibi=True, attention_probs_dropout_prob=0.0)
    attention = SelfAttention(config).double()
    x = torch.randn(2, 10, 32, dtype=torch.float64)
    mask = (torch.arange(10) < torch.tensor([[6], [10]]))[:, None, None] if masked else None
    query, key, value = (part.view(2, 10, 4, 8) for part in attention.qkv(x).chunk(3, 2))
    expected = torch.zeros(2, 10, 4, 8, dtype=torch.float64)
    for text in range(2):
        for head, slope in enumerate((1, 1 / 4, 1 / 16, 1 / 64)):
            for at in range(10):
                seen = 6 if masked and text == 0 else 10
                scores = key[text, :seen, head] @ query[text, at, head] / 8**0.5
                scores = scores - slope * (torch.arange(seen) - at).abs()
                expected[text, at, head] = scores.softmax(0) @ value[text, :seen, head]
    torch.testing.assert_close(attention(x, mask), attention.output(expected.view(2, 10, 32)))
    float_mask = alibi_bias(4, 10, torch.float64, x.device)
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    torch.testing.assert_close(
        _attend_by_products(query, key, value, attn_mask=float_mask, dropout_p=0.0),
        F.scaled_dot_product_attention(query, key, value, attn_mask=float_mask),
    )
