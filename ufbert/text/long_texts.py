"""Texts longer than the model reads, split into overlapping parts instead of cut.

encode_parts(tokenizer, texts, ...)  ->  rows of tokens, the text of each row, where a split text's rows lie in it
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Encoding, Tokenizer

from ufbert.errors import ConfigError
from ufbert.settings.inference import LONG_TEXTS

from .tokenization import EncodedBatch, encode_raw, stack_rows

__all__ = ["SplitBatch", "TextPart", "choose_overlap", "encode_parts"]


@dataclass(frozen=True, slots=True)
class TextPart:
    """Where the T tokens of one row of a split text lie."""

    places: npt.NDArray[np.int64]
    """(T,) the number of each token in its text, the second text of a pair counted on; -1 at special tokens."""
    context: npt.NDArray[np.int64]
    """(T,) how many tokens of its text the row holds on that side of each token which has fewer of them."""


class SplitBatch(NamedTuple):
    """Rows of tokens in the order of the texts."""

    encoded: EncodedBatch
    owner: npt.NDArray[np.int64]
    """(rows,) the number of each row's text."""
    parts: dict[int, TextPart]
    """By row, for the texts that have more than one."""


def choose_overlap(tokenizer: Tokenizer, max_length: int, long_text: str, stride: int | None) -> int | None:
    """The tokens that neighbouring parts of a text share: `stride`, by default a quarter of a part.

    None if long texts are cut. Raises `ConfigError` for values that cannot be.
    """
    if long_text not in LONG_TEXTS:
        raise ConfigError(f"unknown long_text {long_text!r}; known: {', '.join(LONG_TEXTS)}")
    if long_text == "truncate":
        if stride is not None:
            raise ConfigError("stride is an option of long_text 'window'; long texts are truncated here")
        return None
    # Half of the room, because the longer text of a pair may get no more.
    room = max_length - tokenizer.num_special_tokens_to_add(False)
    pair_room = (max_length - tokenizer.num_special_tokens_to_add(True) + 1) // 2
    if room < 1:
        raise ConfigError(f"max_length {max_length} leaves no room beside the special tokens; raise it")
    if stride is None:
        return max(0, min(room // 4, pair_room - 1))
    if not 0 <= stride < room:
        raise ConfigError(f"stride must lie between 0 and {room - 1}, one less than a window's tokens, not {stride}")
    return stride


def encode_parts(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None = None, *, max_length: int, overlap: int
) -> SplitBatch:
    """Encode texts or pairs whole: what exceeds `max_length` tokens becomes rows that share `overlap` of them.

    Of a pair, the longer text is split and the shorter repeated in each row; one that takes more than half of the
    room is cut to that, which `truncated_count` counts. `tokenizer` neither truncates nor pads.
    Raises `ConfigError` where a pair leaves the longer text no more than `overlap` tokens.
    """
    room, first, second = encode_raw(tokenizer, texts, pairs, max_length)
    rows: list[tuple[npt.ArrayLike, npt.ArrayLike]] = []
    owner: list[int] = []
    parts: dict[int, TextPart] = {}
    truncated = 0
    for number, (a, b) in enumerate(zip(first, second, strict=True)):
        lengths = (len(a), 0 if b is None else len(b))
        whole = tokenizer.post_process(a, b)
        if sum(lengths) <= room:
            rows.append((whole.ids, whole.type_ids))
            owner.append(number)
            continue
        side = 0 if lengths[0] > lengths[1] else 1
        repeated = min(lengths[1 - side], room // 2)
        truncated += repeated < lengths[1 - side]
        size = room - repeated
        if overlap >= size:
            raise ConfigError(
                f"stride {overlap} is not less than the {size} tokens that a window holds of a pair's longer text; "
                "give a smaller stride"
            )
        for columns, part in _split(_Whole.of(whole, lengths[0]), side, lengths[side], repeated, size, overlap):
            parts[len(rows)] = part
            rows.append(columns)
            owner.append(number)
    encoded = stack_rows(tokenizer, rows, truncated)
    return SplitBatch(encoded, np.array(owner, dtype=np.int64), parts)


class _Whole(NamedTuple):
    """A text or pair with its special tokens, uncut; all arrays are (T,)."""

    ids: npt.NDArray[np.int64]
    type_ids: npt.NDArray[np.int64]
    side: npt.NDArray[np.int64]
    """0 or 1 for the text that a token belongs to, -1 for a special token."""
    number: npt.NDArray[np.int64]
    """The number of a token in its text."""
    offset: int
    """Tokens of the first text."""

    @classmethod
    def of(cls, encoding: Encoding, offset: int) -> _Whole:
        # Not its sequence_ids, which lack the first text of a pair. A mask written in a text is not special here.
        columns = np.flatnonzero(np.array(encoding.special_tokens_mask) == 0)
        side, number = np.full((2, len(encoding)), -1, dtype=np.int64)
        side[columns] = np.arange(len(columns)) >= offset
        number[columns] = np.arange(len(columns)) - offset * side[columns]
        return cls(np.array(encoding.ids), np.array(encoding.type_ids), side, number, offset)


def _split(
    whole: _Whole, side: int, length: int, repeated: int, size: int, overlap: int
) -> Iterator[tuple[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]], TextPart]]:
    """(ids, types) and places of row after row: `size` tokens of one side, the first `repeated` of the other."""
    special = np.flatnonzero(whole.side == -1)
    split = np.flatnonzero(whole.side == side)
    other = np.flatnonzero(whole.side == 1 - side)[:repeated]
    for start in range(0, length - overlap, size - overlap):
        chosen = split[start : start + size]
        columns = np.sort(np.concatenate([special, chosen, other]))
        places = np.where(whole.side == 1, whole.number + whole.offset, whole.number)[columns]
        places[whole.side[columns] == -1] = -1
        context = np.zeros(len(columns), dtype=np.int64)
        for held in (chosen, other):
            order = np.arange(len(held))
            context[np.searchsorted(columns, held)] = np.minimum(order, order[::-1])
        yield (whole.ids[columns], whole.type_ids[columns]), TextPart(places, context)
