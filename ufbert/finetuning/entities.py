"""Entities out of tags, and how well they are found: precision, recall and F1 over whole entities.

An entity is right if its type and both of its ends are. Where one begins and ends follows the rules of the CoNLL
shared tasks' evaluation script (conlleval), which read all of these schemes: IOB1 (B- only where it parts two
neighbours of one type), IOB2 (B- at every beginning), BIOES (also with L- and U- for E- and S-), and IO (the type
alone, or I-).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Counts", "EntityCounts", "count_entities", "entities", "mark_pieces"]

OUTSIDE = "O"
PREFIXES = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
"""Letter before the type -> what it says: begin, inside, end, or single."""

Entity = tuple[str, int, int]
"""Type, first word, the word behind the last."""


def mark_pieces(names: Iterable[str]) -> bool:
    """Whether tags mark pieces of a text, as named entities do; parts of speech say something of each word."""
    names = set(names)
    prefixed = any(letter in PREFIXES and dash for letter, dash, _ in (name.partition("-") for name in names))
    return OUTSIDE in names or prefixed or names <= PREFIXES.keys()


def entities(tags: Sequence[str], *, pieces: bool = True) -> set[Entity]:
    """The entities of one sentence. Unless tags mark `pieces`, every word is one of its own."""
    if not pieces:
        return {(tag, place, place + 1) for place, tag in enumerate(tags)}
    found: set[Entity] = set()
    start, before, kind_before = 0, OUTSIDE, ""
    for place, tag in enumerate([*tags, OUTSIDE]):
        mark, kind = _parts(tag)
        changes = kind != kind_before
        if before != OUTSIDE and (mark in (OUTSIDE, "B", "S") or before in ("E", "S") or changes):
            found.add((kind_before, start, place))
            before = OUTSIDE
        if mark != OUTSIDE and before == OUTSIDE:
            start = place
        before, kind_before = mark, kind
    return found


def _parts(tag: str) -> tuple[str, str]:
    """What a tag says (O, B, I, E, S) and its type; a tag without a prefix is a type that goes on."""
    if tag == OUTSIDE:
        return OUTSIDE, ""
    letter, dash, kind = tag.partition("-")
    if dash and letter in PREFIXES:
        return PREFIXES[letter], kind
    return ("I", tag) if tag not in PREFIXES else (PREFIXES[tag], "")


class Counts(NamedTuple):
    """Of the entities of one type or of all."""

    right: int
    found: int
    """Said to be there."""
    there: int

    @property
    def precision(self) -> float:
        """Share of those found that are right; 0 where there are none."""
        return self.right / self.found if self.found else 0.0

    @property
    def recall(self) -> float:
        """Share of those that are there which is found; 0 where there are none."""
        return self.right / self.there if self.there else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where nothing is right."""
        return 2 * self.right / (self.found + self.there) if self.found + self.there else 0.0


class EntityCounts(NamedTuple):
    """Of a set of sentences."""

    overall: Counts
    by_type: dict[str, Counts]
    """Types in the order of the alphabet."""


def count_entities(
    true: Iterable[Sequence[str]], predicted: Iterable[Sequence[str]], *, pieces: bool = True
) -> EntityCounts:
    """Count the entities of sentences by their tags, as both sides have them."""
    right, found, there = Counter[str](), Counter[str](), Counter[str]()
    for ours, theirs in zip(true, predicted, strict=True):
        is_there, is_found = entities(ours, pieces=pieces), entities(theirs, pieces=pieces)
        right.update(kind for kind, *_ in is_there & is_found)
        found.update(kind for kind, *_ in is_found)
        there.update(kind for kind, *_ in is_there)
    by_type = {kind: Counts(right[kind], found[kind], there[kind]) for kind in sorted(found | there)}
    return EntityCounts(Counts(right.total(), found.total(), there.total()), by_type)
