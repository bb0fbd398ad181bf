"""From the tags of tokens to entities, by the rules of transformers' token-classification pipeline.

Source of the rules: `TokenClassificationPipeline` of transformers 5, with its `aggregation_strategy` of the same name.

- `none`: every token with its own tag;
- `simple`: neighbouring tokens of one type are an entity, which a tag B- begins anew; its score is their mean;
- `first`, `average`, `max`: first each word gets one tag, that of its first token, of the mean of its tokens'
  probabilities, or of its surest token; then as `simple`.

What is tagged O is left out at the end.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Entity", "TaggedToken", "aggregate", "continue_words"]

OUTSIDE = "O"


@dataclass(frozen=True, slots=True)
class TaggedToken:
    """A token or a word of a text with its tag."""

    tag: str
    score: float
    start: int
    """First character."""
    end: int
    """The character behind the last one."""


@dataclass(frozen=True, slots=True)
class Entity:
    """A piece of a text with the label of its tokens."""

    label: str
    score: float
    start: int
    end: int


def continue_words(
    text: str, pieces: Sequence[str], offsets: Sequence[tuple[int, int]], unknown: Sequence[bool], prefixed: bool
) -> list[bool]:
    """Which tokens go on with the word before them.

    With `prefixed` pieces (WordPiece's `##`) those that are not as long as their characters in the text; else those
    without a blank before or at their beginning. An unknown token is a word of its own.
    """
    if prefixed:
        going_on = [len(piece) != end - start for piece, (start, end) in zip(pieces, offsets, strict=True)]
    else:
        going_on = [start > 0 and " " not in text[start - 1 : start + 1] for start, _ in offsets]
    return [yes and not strange for yes, strange in zip(going_on, unknown, strict=True)]


def aggregate(
    probabilities: npt.NDArray[np.float32],
    offsets: Sequence[tuple[int, int]],
    going_on: Sequence[bool],
    names: Sequence[str],
    strategy: str,
) -> list[Entity]:
    """probabilities (tokens, tags), the tokens' characters, whether each goes on with a word -> entities in order."""
    if strategy in ("none", "simple"):
        best, scores = probabilities.argmax(1).tolist(), probabilities.max(1).tolist() if len(offsets) else []
        tagged = [
            TaggedToken(names[tag], score, *place) for tag, score, place in zip(best, scores, offsets, strict=True)
        ]
    else:
        tagged = list(_words(probabilities, offsets, going_on, names, strategy))
    if strategy == "none":
        return [Entity(t.tag, t.score, t.start, t.end) for t in tagged if t.tag != OUTSIDE]
    return [entity for entity in map(_joined, _groups(tagged)) if entity.label != OUTSIDE]


def _words(
    probabilities: npt.NDArray[np.float32],
    offsets: Sequence[tuple[int, int]],
    going_on: Sequence[bool],
    names: Sequence[str],
    strategy: str,
) -> Iterator[TaggedToken]:
    starts = [i for i, goes_on in enumerate(going_on) if i == 0 or not goes_on]
    for start, end in itertools.pairwise([*starts, len(offsets)]):
        rows = probabilities[start:end]
        if strategy == "first":
            row = rows[0]
        elif strategy == "max":
            row = rows[int(rows.max(1).argmax())]
        else:
            row = rows.mean(0)
        tag = int(row.argmax())
        yield TaggedToken(names[tag], float(row[tag]), offsets[start][0], offsets[end - 1][1])


def _groups(tagged: Sequence[TaggedToken]) -> Iterator[list[TaggedToken]]:
    """Neighbours of one type; B- begins a group anew."""
    group: list[TaggedToken] = []
    for token in tagged:
        begins, kind = _parts(token.tag)
        if group and (begins or kind != _parts(group[-1].tag)[1]):
            yield group
            group = []
        group.append(token)
    if group:
        yield group


def _parts(tag: str) -> tuple[bool, str]:
    """Whether a tag begins an entity, and its type; a tag without B- or I- is a type that goes on."""
    return tag.startswith("B-"), tag[2:] if tag.startswith(("B-", "I-")) else tag


def _joined(group: Sequence[TaggedToken]) -> Entity:
    score = float(np.mean([token.score for token in group]))
    return Entity(group[0].tag.split("-", 1)[-1], score, group[0].start, group[-1].end)
