"""Tagged sentences to tokens: the first token of a word carries its tag, long sentences are read in windows.

The words are joined by blanks and tokenised as one text, as `ufbert infer` meets them, and tokens are found again by
their characters. Of a sentence in several overlapping windows each word is learned and judged once, in the window that
holds most of the sentence around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from ufbert.model.heads import IGNORED_LABEL
from ufbert.text.long_texts import choose_overlap, encode_parts
from ufbert.text.token_places import best_rows, leading_tokens

from .sequence_batches import Sequences
from .tag_data import TagSplit

__all__ = ["TaggedSequences", "encode_tagged", "first_tokens"]

ENCODED_AT_ONCE = 1024


@dataclass(frozen=True)
class TaggedSequences(Sequences):
    """Token ids of every window; `cut` counts the sentences that have several."""

    labels: list[npt.NDArray[np.int64]]
    """A tag's number at the first token of a word, -100 at all others, (T,)."""
    owner: list[int]
    """The sentence of each window."""
    words: list[npt.NDArray[np.int64]]
    """The numbers of the words that carry a label in each window, in order."""
    lost: int
    """Words that the tokenizer makes nothing of, which have no token to carry their tag."""

    def label_batch(self, rows: Sequence[int]) -> torch.Tensor:
        """The labels of some windows (B, T), -100 at the padding."""
        width = max(len(self.ids[row]) for row in rows)
        labels = np.full((len(rows), width), IGNORED_LABEL, dtype=np.int64)
        for i, row in enumerate(rows):
            labels[i, : len(self.labels[row])] = self.labels[row]
        return torch.from_numpy(labels)


def encode_tagged(tokenizer: Tokenizer, split: TagSplit, max_length: int) -> TaggedSequences:
    """The windows of all sentences, of `max_length` tokens with the special ones; a quarter of them is shared."""
    overlap = choose_overlap(tokenizer, max_length, "window", None)
    assert overlap is not None
    leading = leading_tokens(tokenizer)
    made = _Collected()
    for start in range(0, len(split), ENCODED_AT_ONCE):
        chunk = range(start, min(start + ENCODED_AT_ONCE, len(split)))
        texts = [" ".join(split.words[number]) for number in chunk]
        encoded, owner, parts = encode_parts(tokenizer, texts, max_length=max_length, overlap=overlap)
        lengths = encoded.attention_mask.sum(1)
        encodings = tokenizer.encode_batch(texts, add_special_tokens=False)
        bounds = np.searchsorted(owner, np.arange(len(chunk) + 1))
        for place, number in enumerate(chunk):
            rows = range(int(bounds[place]), int(bounds[place + 1]))
            first = first_tokens(split.words[number], encodings[place].offsets)
            made.lost += int((first < 0).sum())
            made.split += len(rows) > 1
            words = np.flatnonzero(first >= 0)
            if len(rows) > 1:
                windows, columns = best_rows([parts[row] for row in rows])
                windows, columns = windows[first[words]], columns[first[words]]
            else:
                windows, columns = np.zeros_like(words), leading + first[words]
            for window, row in enumerate(rows):
                mine = windows == window
                if not mine.any():  # nothing to learn there, nor to judge
                    continue
                labels = np.full(int(lengths[row]), IGNORED_LABEL, dtype=np.int64)
                labels[columns[mine]] = split.tags[number][words[mine]]
                made.ids.append(encoded.input_ids[row, : lengths[row]].copy())
                made.types.append(encoded.token_type_ids[row, : lengths[row]].copy())
                made.labels.append(labels)
                made.owner.append(number)
                made.words.append(words[mine])
    return TaggedSequences(made.ids, made.types, made.split, made.labels, made.owner, made.words, made.lost)


class _Collected:
    """What is being collected."""

    def __init__(self) -> None:
        self.ids: list[npt.NDArray[np.int64]] = []
        self.types: list[npt.NDArray[np.int64]] = []
        self.labels: list[npt.NDArray[np.int64]] = []
        self.owner: list[int] = []
        self.words: list[npt.NDArray[np.int64]] = []
        self.split = self.lost = 0


def first_tokens(words: Sequence[str], offsets: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
    """The number of the first token of each word, (words,); -1 for a word without one.

    `offsets` are the tokens' characters in the words joined by blanks. A token that is the blank alone belongs to no
    word, one that begins with the blank to the word behind it.
    """
    lengths = np.array([len(word) for word in words], dtype=np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    ends = starts + lengths
    first = np.full(len(words), -1, dtype=np.int64)
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    owner = np.searchsorted(starts, spans[:, 0], side="right") - 1
    owner += spans[:, 0] >= ends[owner]  # the blank behind a word
    inside = owner < len(words)
    inside[inside] &= spans[inside, 1] > np.maximum(starts[owner[inside]], spans[inside, 0])
    tokens = np.flatnonzero(inside)
    found, which = np.unique(owner[tokens], return_index=True)
    first[found] = tokens[which]
    return first
