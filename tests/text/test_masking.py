from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ufbert.errors import ConfigError
from ufbert.text.masking import IGNORED, count_masked, mask_tokens, masked_positions

SPECIAL = [0, 1, 2, 3, 4]
MASK = 4


@given(
    batch=st.integers(0, 5),
    length=st.integers(1, 64),
    probability=st.floats(0.01, 0.99),
    vocab_size=st.integers(6, 60),
    share_special=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=150, deadline=None)
def test_every_sequence_has_the_same_count_and_no_special_token_is_touched(
    batch: int, length: int, probability: float, vocab_size: int, share_special: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(5, vocab_size, (batch, length)).astype(np.uint16)
    blocks[rng.random((batch, length)) < share_special] = rng.integers(0, 5)
    before = blocks.copy()
    generator = torch.Generator().manual_seed(seed)
    input_ids, labels = mask_tokens(blocks, SPECIAL, MASK, vocab_size, probability, generator)

    assert input_ids.dtype == labels.dtype == torch.int64
    assert input_ids.shape == labels.shape == (batch, length)
    assert (blocks == before).all()
    original = torch.from_numpy(before.astype(np.int64))
    chosen = labels != IGNORED
    maskable = original >= 5
    expected = maskable.sum(1).clamp(max=max(1, round(probability * length)))
    assert chosen.sum(1).tolist() == expected.tolist()
    assert count_masked(before.astype(np.int64), SPECIAL, vocab_size, probability) == int(chosen.sum())
    assert masked_positions(probability, length) == min(length, max(1, round(probability * length)))
    assert not (chosen & ~maskable).any()
    assert (labels[chosen] == original[chosen]).all()
    assert (input_ids[~chosen] == original[~chosen]).all()
    seen = input_ids[chosen]
    assert ((seen == MASK) | ((seen >= 5) & (seen < vocab_size))).all()


def test_the_shares_are_eighty_ten_ten_and_positions_are_uniform() -> None:
    blocks = torch.full((20_000, 32), 7)
    vocab_size = 1005
    input_ids, labels = mask_tokens(blocks, SPECIAL, MASK, vocab_size, 0.25, torch.Generator().manual_seed(1))
    seen = input_ids[labels != IGNORED]
    total = len(seen)
    assert total == 20_000 * 8

    def close(count: int, share: float) -> bool:
        return abs(count - share * total) < 5 * math.sqrt(total * share * (1 - share))

    assert close(int((seen == MASK).sum()), 0.8)
    assert close(int(((seen != MASK) & (seen != 7)).sum()), 0.1 * 999 / 1000)
    replaced = seen[(seen != MASK) & (seen != 7)]
    counts = torch.bincount(replaced, minlength=vocab_size)
    assert counts[:5].sum() == 0
    assert (counts[5:] > 0).sum() == 999
    by_position = (labels != IGNORED).sum(0)
    assert (by_position - 5000).abs().max() < 5 * (20_000 * 0.25 * 0.75) ** 0.5


def test_the_generators_state_decides_everything() -> None:
    blocks = torch.randint(5, 100, (4, 32))
    generator = torch.Generator().manual_seed(3)
    first = mask_tokens(blocks, SPECIAL, MASK, 100, rng=generator)
    state = generator.get_state()
    second = mask_tokens(blocks, SPECIAL, MASK, 100, rng=generator)
    generator.set_state(state)
    again = mask_tokens(blocks, SPECIAL, MASK, 100, rng=generator)
    assert not torch.equal(first[0], second[0])
    assert torch.equal(second[0], again[0])
    assert torch.equal(second[1], again[1])


def test_a_vocabulary_of_special_tokens_alone_is_refused() -> None:
    with pytest.raises(ConfigError, match="no ordinary token"):
        mask_tokens(torch.zeros(1, 8, dtype=torch.int64), SPECIAL, MASK, 5)


def test_given_draws_decide_alone_and_row_by_row() -> None:
    generator = torch.Generator().manual_seed(2)
    blocks = torch.randint(0, 1005, (4000, 32), generator=generator)
    draws = torch.rand(4000, 3, 32, generator=generator, dtype=torch.float64)
    input_ids, labels = mask_tokens(blocks, SPECIAL, MASK, 1005, draws=draws)
    again = [mask_tokens(blocks[part], SPECIAL, MASK, 1005, draws=draws[part]) for part in (slice(7), slice(7, None))]
    assert torch.equal(torch.cat([ids for ids, _ in again]), input_ids)
    assert torch.equal(torch.cat([rows for _, rows in again]), labels)
    chosen = labels != IGNORED
    assert int(chosen.sum()) == count_masked(blocks.numpy(), SPECIAL, 1005, 0.25)
    masked, kept = (input_ids == MASK) & chosen, (input_ids == labels) & chosen
    total = int(chosen.sum())
    assert int(masked.sum()) / total == pytest.approx(0.8, abs=0.02)
    assert int(kept.sum()) / total == pytest.approx(0.1, abs=0.02)
    replaced = input_ids[chosen & ~masked & ~kept]
    assert (int(replaced.min()), int(replaced.max())) == (5, 1004)
