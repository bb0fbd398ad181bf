"""Pooling: padding does not count, and by length not even the last bit hangs on it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ufbert.model.pooling import pool, pool_by_length


def padded(lengths: list[int], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random hidden states (B, T, width), zeros after the given lengths, and their mask (B, T)."""
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return torch.randn(len(lengths), max(lengths), width) * mask[:, :, None], mask


@pytest.mark.parametrize("function", [pool, pool_by_length])
def test_mean_and_first_leave_padding_out(
    function: Callable[[torch.Tensor, torch.Tensor | None, str], torch.Tensor],
) -> None:
    hidden, mask = padded([7, 7, 3, 1], 32)
    mean = function(hidden, mask, "mean")
    torch.testing.assert_close(mean, torch.stack([h[: m.sum()].mean(0) for h, m in zip(hidden, mask, strict=True)]))
    for name in ("first", "cls"):
        assert torch.equal(function(hidden, mask, name), hidden[:, 0])
    torch.testing.assert_close(function(hidden, None, "mean"), hidden.mean(1))


def test_a_mask_may_stand_anywhere_and_may_be_empty() -> None:
    hidden = torch.randn(3, 5, 8)
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [0, 0, 0, 0, 0]])
    expected = torch.stack([hidden[0, 2:].mean(0), hidden[1, ::2].mean(0), torch.zeros(8)])
    torch.testing.assert_close(pool(hidden, mask, "mean"), expected)


def test_by_length_is_the_same_to_the_last_bit_in_any_company() -> None:
    hidden, mask = padded([2048, 512, 511, 511, 40], 312)
    together = pool_by_length(hidden, mask, "mean")
    for row, length in enumerate(mask.sum(1).tolist()):
        assert torch.equal(together[row], pool(hidden[row : row + 1, :length], None, "mean")[0])
