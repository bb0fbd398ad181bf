"""Batches of rows of like length."""

from __future__ import annotations

import numpy as np

from ufbert.finetuning.sequence_batches import encode_sequences, training_batches
from ufbert.text.tokenization import train_tokenizer


def test_batches_hold_every_row_once_with_little_padding() -> None:
    texts = ["film " * length for length in np.random.default_rng(0).integers(1, 60, 500)]
    tokenizer = train_tokenizer(["the film"] * 20, 50, min_frequency=1)
    sequences = encode_sequences(tokenizer, texts, None, 64, 0)
    batches = list(training_batches(sequences, 16, np.random.default_rng(0)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    assert [len(b) for b in batches].count(16) == 31
    padded = sum(len(b) * sequences.lengths[b].max() for b in batches)
    assert padded < 1.1 * sequences.lengths.sum()
    widest = [int(sequences.lengths[b].max()) for b in batches]
    assert widest != sorted(widest)
    other = list(training_batches(sequences, 16, np.random.default_rng(1)))
    assert any(a.tolist() != b.tolist() for a, b in zip(batches, other, strict=True))
    batch = sequences.batch([0, 1], 7, True)
    shorter = int(np.argmin(sequences.lengths[:2]))
    assert (batch["input_ids"][shorter, sequences.lengths[shorter] :] == 7).all()
    assert batch["attention_mask"].sum(1).tolist() == sequences.lengths[:2].tolist()
