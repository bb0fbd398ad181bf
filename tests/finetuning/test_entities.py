"""Entities out of tags, in every scheme, and their figures against known ones."""

from __future__ import annotations

import pytest

from ufbert.finetuning.entities import Counts, count_entities, entities, mark_pieces


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        # IOB2
        ("O B-PER I-PER O B-LOC", {("PER", 1, 3), ("LOC", 4, 5)}),
        ("B-PER B-PER I-PER", {("PER", 0, 1), ("PER", 1, 3)}),
        # IOB1: B- only between two of one type
        ("I-PER I-PER O I-LOC B-LOC I-LOC", {("PER", 0, 2), ("LOC", 3, 4), ("LOC", 4, 6)}),
        ("I-PER I-LOC", {("PER", 0, 1), ("LOC", 1, 2)}),
        # BIOES, and BILOU
        ("S-PER B-LOC I-LOC E-LOC S-LOC O", {("PER", 0, 1), ("LOC", 1, 4), ("LOC", 4, 5)}),
        ("U-PER B-LOC I-LOC L-LOC U-LOC", {("PER", 0, 1), ("LOC", 1, 4), ("LOC", 4, 5)}),
        ("B-A E-A I-A E-A", {("A", 0, 2), ("A", 2, 4)}),
        # IO
        ("PER PER O LOC PER", {("PER", 0, 2), ("LOC", 3, 4), ("PER", 4, 5)}),
        # no type, and types with dashes
        ("B I O B", {("", 0, 2), ("", 3, 4)}),
        ("B-co-founder I-co-founder", {("co-founder", 0, 2)}),
        ("B-PER I-LOC", {("PER", 0, 1), ("LOC", 1, 2)}),
        ("", set()),
    ],
)
def test_every_scheme(tags: str, expected: set[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == expected


def test_parts_of_speech_are_of_words() -> None:
    assert not mark_pieces(["NOUN", "VERB", "S"])
    assert mark_pieces(["NOUN", "O"])
    assert mark_pieces(["B-NP", "I-NP"])
    assert mark_pieces(["I-NP", "B-NP"])
    assert mark_pieces(["B", "M", "E", "S"])
    assert entities(["NOUN", "NOUN"], pieces=False) == {("NOUN", 0, 1), ("NOUN", 1, 2)}


def test_the_figures_are_those_of_the_conll_script() -> None:
    """The example of seqeval's README, whose figures agree with conlleval: precision, recall and F1 of 0.5."""
    true = [["O", "O", "O", "B-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    found = [["O", "O", "B-MISC", "I-MISC", "I-MISC", "I-MISC", "O"], ["B-PER", "I-PER", "O"]]
    counts = count_entities(true, found)
    assert counts.overall == Counts(right=1, found=2, there=2)
    assert (counts.overall.precision, counts.overall.recall, counts.overall.f1) == (0.5, 0.5, 0.5)
    assert counts.by_type == {"MISC": Counts(0, 1, 1), "PER": Counts(1, 1, 1)}
    assert counts.by_type["MISC"].f1 == 0.0


def test_uneven_figures_by_hand() -> None:
    # 3 there, 4 found, 2 right: precision 1/2, recall 2/3, F1 4/7
    true = [["B-A", "I-A", "O", "B-B", "O", "B-A"]]
    found = [["B-A", "I-A", "O", "B-B", "B-B", "B-B"]]
    overall, by_type = count_entities(true, found)
    assert overall == Counts(2, 4, 3)
    assert (overall.precision, overall.recall, overall.f1) == (1 / 2, 2 / 3, 4 / 7)
    assert by_type == {"A": Counts(1, 1, 2), "B": Counts(1, 3, 1)}
    nothing = count_entities([["O"]], [["O"]]).overall
    assert (nothing.precision, nothing.recall, nothing.f1) == (0.0, 0.0, 0.0)
