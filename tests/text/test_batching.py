"""Windows and batches: their sizes, their order, and the rows that belong to each example."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models

from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.text import batching
from ufbert.text.batching import (
    Example,
    encode_window,
    length_batches,
    pooled_batches,
    sorted_batches,
    windows,
)
from ufbert.text.tokenization import encode_batch


def sizes(examples: list[Example], batch_size: int | None, *, done: int = 0) -> list[int]:
    """How many examples each window has; every example is in one, in order."""
    found = list(windows(examples, batch_size, 128, done=done))
    assert [e for window in found for e in window] == examples
    return [len(window) for window in found]


def test_windows_double_up_to_64_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [Example("a") for _ in range(400)]
    assert sizes(texts[:7], 1) == [1, 2, 4]
    assert sizes(texts[:8], 1) == [1, 2, 4, 1]
    assert sizes(texts, 3) == [3, 6, 12, 24, 48, 96, 192, 19]
    assert sizes(texts, 2) == [2, 4, 8, 16, 32, 64, 128, 128, 18]
    for done, first in ((0, 2), (1, 4), (3, 16), (6, 128), (9, 128), (10**9, 128)):
        assert sizes(texts, 2, done=done)[0] == first
    # By tokens: 40 rows of 128 fit, and where not even a batch does, a batch it is.
    monkeypatch.setattr(batching, "WINDOW_TOKENS", 40 * 128 + 127)
    assert sizes(texts, 10)[:4] == [10, 20, 40, 40]
    assert sizes(texts, 50)[:3] == [50, 50, 50]
    assert sizes(texts, None)[:3] == [32, 40, 40]
    assert sizes([], 3) == []


def test_a_window_ends_where_its_characters_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "WINDOW_CHARACTERS", 10)
    monkeypatch.setattr(batching, "UNCUT_CHARACTERS", 4)
    texts = [Example("ab") for _ in range(12)]
    assert sizes(texts, 8) == [5, 5, 2]
    pairs = [Example("ab", "cde") for _ in range(5)]
    assert sizes(pairs, 8) == [2, 2, 1]
    assert [len(window) for window in windows(texts[:5], 8, 128, cut=False)] == [2, 2, 1]
    # The characters of one window do not count in the next, and a window cut short counts as one all the same.
    mixed = [Example("x" * n) for n in (1, 9, 1, 1, 1, 1, 1, 1)]
    assert sizes(mixed, 3) == [2, 6]


def test_batches_fall_in_length_and_keep_the_order_of_equals() -> None:
    lengths = np.array([2, 7, 2, 7, 4, 7], dtype=np.int64)
    assert [b.tolist() for b in length_batches(lengths, 4, 0)] == [[1, 3, 5, 4], [0, 2]]
    # 14 padded tokens: two rows of 7; then the 7 that is left with one of 4; then those of 2.
    assert [b.tolist() for b in length_batches(lengths, None, 14)] == [[1, 3], [5, 4], [0, 2]]
    assert [b.tolist() for b in length_batches(lengths, None, 13)] == [[1], [3], [5], [4, 0, 2]]
    assert list(length_batches(lengths[:0], None, 14)) == []


def test_sorted_and_pooled_batches_take_every_row_once() -> None:
    lengths = np.array([5, 1, 3, 1, 5, 3, 9, 2], dtype=np.int64)
    rows = np.array([4, 0, 7, 3, 1], dtype=np.int64)
    assert [b.tolist() for b in sorted_batches(rows, lengths, 2)] == [[3, 1], [7, 4], [0]]
    order = np.array([6, 0, 1, 2, 3, 4, 5, 7], dtype=np.int64)
    pools = [[b.tolist() for b in pool] for pool in pooled_batches(order, lengths, 2, 2)]
    assert pools == [[[1, 2], [0, 6]], [[3, 7], [5, 4]]]
    pools = [[b.tolist() for b in pool] for pool in pooled_batches(order, lengths, 2, 3)]
    assert pools == [[[1, 3], [2, 0], [4, 6]], [[7, 5]]]


def test_the_rows_of_texts_and_pairs(tiny_checkpoints: dict[str, Path]) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    texts, pairs = ["the fox", "", "a lazy dog and a fox"], ["she sells", "a dog", ""]
    alone = encode_window(tokenizer, [Example(t) for t in texts], 8)
    expected = encode_batch(tokenizer, texts, max_length=8)
    np.testing.assert_array_equal(alone.encoded.input_ids, expected.input_ids)
    assert alone.lengths.tolist() == [len(tokenizer.encode(t)) if len(tokenizer.encode(t)) < 8 else 8 for t in texts]
    assert alone.owner.tolist() == [0, 1, 2]
    assert alone.parts == {}
    together = encode_window(tokenizer, [Example(t, p) for t, p in zip(texts, pairs, strict=True)], 16)
    for row, (text, pair) in enumerate(zip(texts, pairs, strict=True)):
        ids = tokenizer.encode(text, pair).ids
        assert together.encoded.input_ids[row, : together.lengths[row]].tolist() == ids
    assert together.owner.tolist() == [0, 1, 2]
    assert together.encoded.token_type_ids.any()
    # The first example says whether they are pairs; one whose second text is missing has an empty one.
    half = encode_window(tokenizer, [Example("the fox", "a dog"), Example("the fox")], 16)
    assert half.encoded.input_ids[1, : half.lengths[1]].tolist() == tokenizer.encode("the fox", "").ids
    assert len(encode_window(tokenizer, [], 8).owner) == 0
    # Where long texts are split, too.
    split = encode_window(tokenizer, [Example(t, p) for t, p in zip(texts, pairs, strict=True)], 16, 2)
    np.testing.assert_array_equal(split.encoded.input_ids, together.encoded.input_ids)
    assert (split.owner.tolist(), split.parts) == ([0, 1, 2], {})
    long = encode_window(tokenizer, [Example("a dog", "the fox " * 20), Example("a dog", "a fox")], 16, 2)
    assert long.owner.tolist() == [0] * (len(long.owner) - 1) + [1]
    assert sorted(long.parts) == list(range(len(long.owner) - 1))


@pytest.mark.parametrize("kept", [9 * 8 - 1, 9 * 8, 9 * 8 + 1, 500])
def test_of_a_long_text_only_the_beginning_is_tokenised(
    tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    calls: list[list[str]] = []

    def recording(tokenizer: object, texts: list[str], *more: object, **options: object) -> object:
        calls.append(list(texts))
        return encode_batch(tokenizer, texts, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(batching, "encode_batch", recording)
    text = ("the fox " * 100)[:kept]
    whole = encode_batch(tokenizer, [text, "a dog"], max_length=8)
    window = encode_window(tokenizer, [Example(text), Example("a dog")], 8)
    np.testing.assert_array_equal(window.encoded.input_ids, whole.input_ids)
    assert window.encoded.truncated_count == 1
    ((first, short),) = calls  # once
    assert short == "a dog"
    assert first == (text if kept <= 72 else "the fox " * 8 + "the fox")


def test_a_tokenizer_that_does_not_part_at_spaces_gets_the_whole_text() -> None:
    # Beyond 100 characters a word is unknown, and to this tokenizer a text is one word.
    vocabulary = {"[UNK]": 0, "a": 1, "##a": 2, "## ": 3}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    assert encode_window(tokenizer, [Example("a " * 50)], 4).encoded.input_ids.tolist() == [[1, 3, 2, 3]]
    assert encode_window(tokenizer, [Example("a " * 51)], 4).encoded.input_ids.tolist() == [[0]]
