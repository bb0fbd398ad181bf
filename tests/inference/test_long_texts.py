"""Texts beyond the model's length: split into overlapping windows, whose results are joined."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ufbert import Pipeline
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import ConfigError, DataError
from ufbert.text.batching import UNCUT_CHARACTERS, Example, windows
from ufbert.text.long_texts import encode_parts

TEXT = "the quick brown fox jumps over lazy dog she sells sea shells by shore and trees paths"
WORDS = TEXT.split()


def long_text(words: int, seed: int = 0) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, words))


def pipeline(folder: Path, **options: Any) -> Pipeline:
    return Pipeline(folder, precision="float32", long_text="window", **options)


def split_by_hand(folder: Path, text: str, length: int, overlap: int) -> tuple[list[str], np.ndarray[Any, Any]]:
    """The texts of the windows, and their tokens with the two special ones."""
    tokenizer = load_tokenizer(folder)
    encoding = tokenizer.encode(text, add_special_tokens=False)
    encoding.truncate(length - 2, stride=overlap)
    pieces = [encoding, *encoding.overflowing]
    return [text[p.offsets[0][0] : p.offsets[-1][1]] for p in pieces], np.array([len(p) + 2 for p in pieces])


@pytest.mark.parametrize("overlap", [0, 1, 7])
def test_the_rows_are_those_of_the_tokenizers_library(tiny_checkpoints: dict[str, Path], overlap: int) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    texts = ["", "a dog", *(long_text(n) for n in (10, 20, 21, 100))]
    found = encode_parts(tokenizer, texts, max_length=14, overlap=overlap)
    row = 0
    for number, text in enumerate(texts):
        encoding = tokenizer.encode(text, add_special_tokens=False)
        encoding.truncate(12, stride=overlap)
        for piece in [encoding, *encoding.overflowing]:
            tokens = [token for token in found.encoded.input_ids[row] if token != tokenizer.token_to_id("[PAD]")]
            assert tokens == [tokenizer.token_to_id("[CLS]"), *piece.ids, tokenizer.token_to_id("[SEP]")]
            assert found.encoded.attention_mask[row].sum() == len(tokens)
            assert found.owner[row] == number
            row += 1
    assert row == len(found.encoded.input_ids)
    assert found.encoded.truncated_count == 0


@pytest.mark.parametrize("swap", [False, True])
def test_of_a_pair_the_longer_text_is_split_and_the_shorter_repeated(
    tiny_checkpoints: dict[str, Path], swap: bool
) -> None:
    tokenizer = load_tokenizer(tiny_checkpoints["encoder"])
    short, long = "she sells", long_text(30)
    first, second = (long, short) if swap else (short, long)
    found = encode_parts(tokenizer, [first], [second], max_length=12, overlap=2)
    pieces = tokenizer.encode(long, add_special_tokens=False)
    room = 12 - 3 - len(tokenizer.encode(short, add_special_tokens=False))
    pieces.truncate(room, stride=2)
    whole = [pieces, *pieces.overflowing]
    kept = tokenizer.encode(short, add_special_tokens=False)
    assert len(found.owner) == len(whole)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    for row, piece in enumerate(whole):
        a, b = (piece, kept) if swap else (kept, piece)
        expected = [cls, *a.ids, sep, *b.ids, sep]
        assert found.encoded.input_ids[row, : len(expected)].tolist() == expected
        types = [0] * (len(a) + 2) + [1] * (len(b) + 1)
        assert found.encoded.token_type_ids[row, : len(expected)].tolist() == types
    both = encode_parts(tokenizer, [long], [long], max_length=12, overlap=2)
    assert both.encoded.truncated_count == 1
    assert both.encoded.input_ids.shape[1] == 12
    with pytest.raises(ConfigError, match="stride 8 is not less than the 5 tokens that a window holds"):
        encode_parts(tokenizer, [long], [long], max_length=12, overlap=8)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embeddings_are_the_mean_of_the_windows(
    tiny_checkpoints: dict[str, Path], pooling: str, normalize: bool
) -> None:
    folder, text = tiny_checkpoints["encoder"], long_text(50)
    pieces, weights = split_by_hand(folder, text, 16, 5)
    assert len(pieces) > 3
    alone = Pipeline(folder, precision="float32", pooling=pooling, normalize=False)(pieces)
    expected = np.average(np.stack([np.asarray(v) for v in alone]), axis=0, weights=weights)
    if normalize:
        expected /= np.linalg.norm(expected)
    found = pipeline(folder, max_length=16, stride=5, pooling=pooling, normalize=normalize)(["a dog", text, "a fox"])
    assert np.asarray(found[1]).dtype == np.float32
    np.testing.assert_allclose(np.asarray(found[1]), expected, atol=1e-5)
    short = Pipeline(folder, precision="float32", pooling=pooling, normalize=normalize)(["a dog", "a fox"])
    np.testing.assert_allclose(np.asarray(found[0]), np.asarray(short[0]), atol=1e-5)
    np.testing.assert_allclose(np.asarray(found[2]), np.asarray(short[1]), atol=1e-5)


def test_probabilities_and_values_are_the_mean_of_the_windows(tiny_checkpoints: dict[str, Path]) -> None:
    text = long_text(60)
    pieces, weights = split_by_hand(tiny_checkpoints["classifier"], text, 16, 3)
    alone = Pipeline(tiny_checkpoints["classifier"], precision="float32")(pieces)
    rows = np.array([list(r["scores"].values()) for r in alone if isinstance(r, dict)])
    expected = np.average(rows, axis=0, weights=weights)
    (found,) = pipeline(tiny_checkpoints["classifier"], max_length=16, stride=3)([text])
    assert isinstance(found, dict)
    np.testing.assert_allclose(list(found["scores"].values()), expected, atol=1e-5)
    assert found["label"] == ["no", "maybe", "yes"][int(expected.argmax())]
    assert found["score"] == max(found["scores"].values())
    values = Pipeline(tiny_checkpoints["regression"], precision="float32")(pieces)
    (value,) = pipeline(tiny_checkpoints["regression"], max_length=16, stride=3)([text])
    mean = np.average([r["value"] for r in values if isinstance(r, dict)], weights=weights)
    assert isinstance(value, dict)
    assert value["value"] == pytest.approx(mean, abs=1e-5)


def test_a_mask_is_filled_by_the_window_with_most_context(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["masked_lm"]
    tokens = WORDS
    tokenizer = load_tokenizer(folder)
    # Words of one token, so that the places can be counted here.
    words = [w for w in tokens if len(tokenizer.encode(w, add_special_tokens=False)) == 1] * 3
    assert len(words) >= 20
    alone = Pipeline(folder, precision="float32")
    joined = pipeline(folder, max_length=12, stride=4)  # windows of 10 tokens: 0-9, 6-15, 12-...
    for place, (start, end) in {2: (0, 10), 6: (0, 10), 7: (0, 10), 8: (6, 16), 9: (6, 16), 14: (12, 20)}.items():
        marked = [*words[:place], "[MASK]", *words[place + 1 : 20]]
        (expected,) = alone([" ".join(marked[start:end])])
        (found,) = joined([" ".join(marked)])
        assert isinstance(expected, dict)
        assert isinstance(found, dict)
        assert [c["token"] for c in found["masks"][0]] == [c["token"] for c in expected["masks"][0]]
        probabilities = [c["probability"] for c in expected["masks"][0]]
        assert [c["probability"] for c in found["masks"][0]] == pytest.approx(probabilities, rel=1e-4)
        assert found["filled"].split()[:place] == marked[:place]
        assert len(found["filled"].split()) == 20
    both = [*words[:3], "[MASK]", *words[4:8], "[MASK]", *words[9:20]]
    (found,) = joined([" ".join(both)])
    assert isinstance(found, dict)
    assert len(found["masks"]) == 2
    assert found["filled"] is None


def test_split_texts_are_counted_and_keep_their_place(tiny_checkpoints: dict[str, Path]) -> None:
    folder = tiny_checkpoints["masked_lm"]
    texts = ["a [MASK] dog", "no mask", long_text(50) + " [MASK]", long_text(50), long_text(40) + " [MASK]"]
    bad: list[DataError] = []
    (results,) = pipeline(folder).run((Example(t, where=f"t:{i}") for i, t in enumerate(texts)), bad.append)
    assert [e.where for e in results.examples] == ["t:0", "t:2", "t:4"]
    assert [str(e)[:3] for e in bad] == ["t:1", "t:3"]
    assert (results.split, results.truncated, results.read) == (3, 0, 5)
    filled = [p["filled"] for p in results.predictions if isinstance(p, dict)]
    assert filled[1].startswith(long_text(50))
    assert filled[2].startswith(long_text(40))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"long_text": "fold"}, "unknown long_text 'fold'; known: truncate, window"),
        ({"stride": 3}, "stride is an option of long_text 'window'"),
        ({"long_text": "window", "stride": 30}, "stride must lie between 0 and 29"),
        ({"long_text": "window", "stride": -1}, "stride must lie between 0 and 29"),
        ({"long_text": "window", "max_length": 2}, "max_length 2 leaves no room beside the special tokens"),
    ],
)
def test_impossible_options(tiny_checkpoints: dict[str, Path], options: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Pipeline(tiny_checkpoints["encoder"], **options)


def test_uncut_texts_make_smaller_windows_that_an_interrupted_run_finds_again() -> None:
    def examples(number: int, length: int) -> Iterator[Example]:
        return (Example("x" * length) for _ in range(number))

    most = UNCUT_CHARACTERS // 500_000
    assert [len(w) for w in windows(examples(9, 500_000), None, 128, cut=False)] == [most, most, 9 - 2 * most]
    whole = list(windows(examples(9000, 9), 5, 128))
    rest = itertools.islice(examples(9000, 9), sum(map(len, whole[:4])), None)
    assert [len(w) for w in windows(rest, 5, 128, done=4)] == [len(w) for w in whole[4:]]
    assert len(next(windows(examples(9000, 9), 5, 128, done=10**6))) == 320
