"""Texts to batches with little padding, by windows of bounded size, so that memory never follows the input.

windows(examples)            ->  lists of examples, the first ones small so that results come soon
encode_window(window)        ->  the tokens of one window
length_batches(lengths)      ->  row numbers, texts of like length together, the longest first
sorted_batches(rows, ...)    ->  the same, the shortest first
pooled_batches(order, ...)   ->  the same of one part of a random order after the other, to train on
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from .long_texts import TextPart, encode_parts
from .tokenization import EncodedBatch, encode_batch

__all__ = ["Example", "Window", "encode_window", "length_batches", "pooled_batches", "sorted_batches", "windows"]

BATCHES_IN_WINDOW = 64
# Of a window's text and of its padded token arrays; both are held about twice.
WINDOW_CHARACTERS = 16_000_000
WINDOW_TOKENS = 4_000_000
# Where long texts are not cut, all of their characters become tokens, which take some 30 times their memory.
UNCUT_CHARACTERS = 2_000_000
BATCH_TEXTS = 32
"""Texts of an automatic batch, as far as the size of windows goes."""
# English WordPiece tokens have about 4.5 characters with the space, so twice that nearly always fills a row.
CHARACTERS_PER_TOKEN = 9


@dataclass(slots=True)
class Example:
    """One text, or a pair of them, with its place in the input and what is carried into the output."""

    text: str
    pair: str | None = None
    where: str = ""
    """For messages: `file:line`, or the index in a list."""
    carried: dict[str, Any] = field(default_factory=dict)


@dataclass
class Window:
    """Neighbouring examples and their tokens; row i of the arrays belongs to `examples[owner[i]]`."""

    examples: list[Example]
    encoded: EncodedBatch
    owner: npt.NDArray[np.int64]
    """The example of each row, rising; every example has a row, and several if it was split."""
    parts: dict[int, TextPart] = field(default_factory=dict)
    """By row, where the tokens of a split text's rows lie in it."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, special ones included, shape (rows,)."""
        lengths: npt.NDArray[np.int64] = self.encoded.attention_mask.sum(1)
        return lengths


def windows(
    examples: Iterable[Example], batch_size: int | None, max_length: int, *, cut: bool = True, done: int = 0
) -> Iterator[list[Example]]:
    """Neighbours in lists: one batch, two, four, ... up to 64, or as many as a window may hold.

    `cut` says whether long texts will be cut to `max_length` tokens. With `done`, the sizes go on as after so
    many windows, so that an interrupted run finds the same windows again.
    """
    batch = batch_size or BATCH_TEXTS
    most = max(batch, min(BATCHES_IN_WINDOW * batch, WINDOW_TOKENS // max_length))
    most_characters = WINDOW_CHARACTERS if cut else UNCUT_CHARACTERS
    size = min(batch << min(done, 16), most)
    window: list[Example] = []
    characters = 0
    for example in examples:
        window.append(example)
        characters += len(example.text) + len(example.pair or "")
        if len(window) >= size or characters >= most_characters:
            yield window
            window, characters, size = [], 0, min(2 * size, most)
    if window:
        yield window


def encode_window(tokenizer: Tokenizer, examples: list[Example], max_length: int, overlap: int | None = None) -> Window:
    """The tokens of a window, cut to `max_length`. Either all of the examples are pairs or none is.

    Given `overlap`, a longer text is split into rows that share so many tokens, instead of cut.

    Of a long text only the beginning is tokenised, up to a space, as far as that fills the row: splitting
    starts over at a space, so the tokens are those of the whole text. A 20,000-character article costs as
    much as a 128-token line this way, not forty times as much.
    """
    pairs = [e.pair or "" for e in examples] if examples and examples[0].pair is not None else None
    if overlap is not None:
        split = encode_parts(tokenizer, [e.text for e in examples], pairs, max_length=max_length, overlap=overlap)
        return Window(examples, *split)
    owner = np.arange(len(examples), dtype=np.int64)
    if pairs is not None:
        encoded = encode_batch(tokenizer, [e.text for e in examples], pairs, max_length=max_length)
        return Window(examples, encoded, owner)
    limit = CHARACTERS_PER_TOKEN * max_length if tokenizer.pre_tokenizer is not None else None
    texts = [_beginning(e.text, limit) for e in examples]
    shortened = np.array([len(t) < len(e.text) for t, e in zip(texts, examples, strict=True)], dtype=bool)
    encoded = encode_batch(tokenizer, texts, max_length=max_length)
    # A beginning of few tokens (long numbers, unknown words) did not fill its row: take the whole text.
    thin = shortened & (encoded.attention_mask.sum(1) < max_length)
    if thin.any():
        texts = [e.text if again else t for e, t, again in zip(examples, texts, thin, strict=True)]
        encoded = encode_batch(tokenizer, texts, max_length=max_length)
    return Window(examples, encoded, owner)


def _beginning(text: str, limit: int | None) -> str:
    if limit is None or len(text) <= limit:
        return text
    space = text.rfind(" ", 0, limit)
    return text[:space] if space > 0 else text


def length_batches(
    lengths: npt.NDArray[np.int64], batch_size: int | None, batch_tokens: int
) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers by falling length, `batch_size` at a time, or as many as `batch_tokens` padded tokens hold.

    The longest come first, so that too large a batch fails at once and not at the end.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = batch_size or max(1, batch_tokens // int(lengths[order[start]]))
        yield order[start : start + size]
        start += size


def sorted_batches(
    rows: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], batch_size: int
) -> list[npt.NDArray[np.int64]]:
    """`rows` by rising length, `batch_size` at a time; rows of equal length keep their order."""
    rows = rows[np.argsort(lengths[rows], kind="stable")]
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]


def pooled_batches(
    order: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], batch_size: int, batches_in_pool: int
) -> Iterator[list[npt.NDArray[np.int64]]]:
    """Batches of rows of like length in an order that stays random: pool by pool, each sorted by itself.

    `order` is a random order of row numbers; a pool is the next `batches_in_pool` batches' worth of it.
    """
    pool = batch_size * batches_in_pool
    for start in range(0, len(order), pool):
        yield sorted_batches(order[start : start + pool], lengths, batch_size)
