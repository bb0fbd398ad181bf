"""Text to token ids: training tokenizers, and encoding batches of texts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Regex, Tokenizer, normalizers, trainers

from ufbert.checkpoint.tokenizer import padding_id, without_padding
from ufbert.checkpoint.word_piece import PREFIX, SPECIAL_TOKENS, bert_tokenizer
from ufbert.errors import ConfigError, DataError

__all__ = [
    "EncodedBatch",
    "drop_non_ascii",
    "encode_batch",
    "encode_raw",
    "stack_rows",
    "train_tokenizer",
]

# Characters that get an entry of their own. BERT's English vocabulary has 997.
ALPHABET_LIMIT = 1000


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    lowercase: bool = True,
    min_frequency: int = 10,
    ascii_only: bool = False,
) -> Tokenizer:
    """A WordPiece tokenizer the way BERT's is, of at most `vocab_size` entries; with `ascii_only`, `drop_non_ascii`.

    The same texts give the same vocabulary. It comes out smaller when no further piece occurs
    `min_frequency` times. The texts are read twice; an iterator is stored for that.
    Raises `ConfigError` for a vocabulary too small to hold letters, `DataError` for too little text.
    """
    limit = min(ALPHABET_LIMIT, (vocab_size - len(SPECIAL_TOKENS)) // 4)
    if limit < 1:
        raise ConfigError(f"vocab_size must be at least {len(SPECIAL_TOKENS) + 4}, not {vocab_size}")
    if iter(texts) is texts:
        texts = list(texts)

    def with_vocabulary(vocabulary: dict[str, int]) -> Tokenizer:
        made = bert_tokenizer(vocabulary, lowercase)
        return drop_non_ascii(made) if ascii_only else made

    tokenizer = with_vocabulary({})
    # The trainer numbers the pieces of single characters, and drops characters beyond its limit, in the
    # order of a hash table that differs between processes. So both lists are made here, in a fixed order.
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    frequent = sorted((-n, c) for c, n in counts.items() if n >= min_frequency and not c.isspace())
    alphabet = sorted(c for _, c in frequent[:limit])
    if not alphabet:
        raise DataError(
            f"too little text to train a tokenizer: no letter occurs {min_frequency} times; "
            "give more text or lower data.min_frequency"
        )
    tokenizer.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=vocab_size,
            min_frequency=min_frequency,
            special_tokens=[*SPECIAL_TOKENS, *alphabet, *(PREFIX + c for c in alphabet)],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            continuing_subword_prefix=PREFIX,
            show_progress=False,
        ),
    )
    return with_vocabulary(tokenizer.get_vocab())


def drop_non_ascii(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that drops accents and every other character beyond ASCII before it does what `tokenizer` does.

    "Café, naïve" becomes "Cafe, naive"; a foreign space becomes a plain one. The rule is part of the normaliser, which
    tokenizer.json holds, so pretraining, finetuning and inference follow it, and so does transformers.
    """
    steps = [
        normalizers.Replace(Regex(r"[^\S\x00-\x7F]"), " "),
        normalizers.NFD(),  # takes letters and accents apart
        normalizers.Replace(Regex(r"[^\x00-\x7F]+"), ""),
    ]
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.normalizer = normalizers.Sequence(steps)
    rule = _normalizers(copy)
    own = tokenizer.normalizer
    if _normalizers(tokenizer)[: len(rule)] == rule:
        copy.normalizer = own
    elif own is not None:
        copy.normalizer = normalizers.Sequence([*steps, own])
    return copy


def _normalizers(tokenizer: Tokenizer) -> list[dict[str, object]]:
    """The steps of a tokenizer's sequence of normalisers; none if it has no sequence."""
    normalizer = json.loads(tokenizer.to_str())["normalizer"] or {}
    steps: list[dict[str, object]] = normalizer.get("normalizers", [])
    return steps


class EncodedBatch(NamedTuple):
    """Token ids of B texts, padded to the longest of them; all arrays are int64 of shape (B, T).

    Where no text has a token, T is 1 and holds padding.
    """

    input_ids: npt.NDArray[np.int64]
    attention_mask: npt.NDArray[np.int64]
    """1 at tokens, 0 at padding."""
    token_type_ids: npt.NDArray[np.int64]
    truncated_count: int
    """How many of the texts were cut to `max_length`."""


def encode_batch(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int
) -> EncodedBatch:
    """Encode texts, or pairs of texts, with the tokenizer's special tokens, cut to `max_length` with them.

    A pair loses tokens at the end of its longer text first. `tokenizer` is left as it is, and what it says
    about truncation and padding is ignored. No text gives arrays of shape (0, 0).
    """
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        tokenizer = without_padding(Tokenizer.from_str(tokenizer.to_str()))
    room, first, second = encode_raw(tokenizer, texts, pairs, max_length)
    truncated = 0
    encodings: list[Encoding] = []
    for a, b in zip(first, second, strict=True):
        length_a, length_b = len(a), len(b) if b is not None else 0
        if length_a + length_b > room:
            truncated += 1
            keep_a, keep_b = _longest_first(length_a, length_b, room)
            a.truncate(keep_a)
            if b is not None:
                b.truncate(keep_b)
        encodings.append(tokenizer.post_process(a, b))
    return stack_rows(tokenizer, [(e.ids, e.type_ids) for e in encodings], truncated)


def encode_raw(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None, max_length: int
) -> tuple[int, list[Encoding], list[Encoding | None]]:
    """(tokens that `max_length` leaves beside the special ones, the texts' tokens uncut, the second texts')."""
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(pairs)} second texts; give one for each")
    room = max_length - tokenizer.num_special_tokens_to_add(pairs is not None)
    if room < 1:
        raise ConfigError(f"max_length {max_length} leaves no room beside the special tokens; raise it")
    first = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    second: list[Encoding | None] = [None] * len(first)
    if pairs is not None:
        second = list(tokenizer.encode_batch(list(pairs), add_special_tokens=False))
    return room, first, second


def stack_rows(
    tokenizer: Tokenizer, rows: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], truncated: int
) -> EncodedBatch:
    """Rows of (token ids, token types) as one batch, padded to the longest, which has one column at least."""
    lengths = [np.size(ids) for ids, _ in rows]
    width = max([1, *lengths]) if lengths else 0
    input_ids = np.full((len(rows), width), padding_id(tokenizer), dtype=np.int64)
    attention_mask = np.zeros_like(input_ids)
    token_type_ids = np.zeros_like(input_ids)
    for row, (length, (ids, type_ids)) in enumerate(zip(lengths, rows, strict=True)):
        input_ids[row, :length] = ids
        attention_mask[row, :length] = 1
        token_type_ids[row, :length] = type_ids
    return EncodedBatch(input_ids, attention_mask, token_type_ids, truncated)


def _longest_first(first: int, second: int, room: int) -> tuple[int, int]:
    """Lengths after taking tokens one by one from the longer text until both fit into `room`."""
    # Of an odd room the longer text gets the greater half, of equally long ones the second: as in tokenizers.
    shorter = min(first, second, room // 2)
    return (room - shorter, shorter) if first > second else (shorter, room - shorter)
