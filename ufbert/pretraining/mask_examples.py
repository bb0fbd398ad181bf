"""Sentences with a gap for a new model to fill, so that people see at once what it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ufbert.inference.pipeline import Pipeline

__all__ = ["FilledMask", "example_sentences", "fill_examples"]

PYTHON_SENTENCES = (
    "Return a [MASK] of strings.",
    "The default [MASK] is None.",
    "Raise an [MASK] if the file does not exist.",
    "This function is [MASK] when the connection is closed.",
)
ENGLISH_SENTENCES = (
    "He was born in the [MASK] of London.",
    "The river flows into the [MASK].",
    "She opened the [MASK] and went out of the room.",
    "It was one of the [MASK] important of all.",
)


@dataclass(frozen=True)
class FilledMask:
    """A sentence and the likeliest tokens for its gap with their probabilities, likeliest first."""

    sentence: str
    candidates: tuple[tuple[str, float], ...]


def example_sentences(corpus: Sequence[str]) -> tuple[str, ...]:
    """Sentences that suit a corpus: on Python for the embedded one, plain English for others."""
    return PYTHON_SENTENCES if tuple(corpus) == ("embedded",) else ENGLISH_SENTENCES


def fill_examples(folder: Path, sentences: Sequence[str], device: str, top: int = 3) -> list[FilledMask]:
    """The `top` tokens for the gap of each sentence by the checkpoint in `folder`, as `ufbert infer` reads it."""
    pipeline = Pipeline(folder, "fill-mask", top_k=top, device=device)
    filled = []
    for sentence, result in zip(sentences, pipeline(sentences), strict=True):
        assert isinstance(result, dict)
        candidates = ((str(c["token"]), float(c["probability"])) for c in result["masks"][0])
        filled.append(FilledMask(sentence, tuple(candidates)))
    return filled
