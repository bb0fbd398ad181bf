"""Sentences with a gap for a new model to fill, so that people see at once what it has learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer

from ufbert.inference.fill_mask import FillMask
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.system.compiler import uncompiled
from ufbert.text.batching import Example, encode_window

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


def fill_examples(
    model: UltraFastBertForMaskedLM, tokenizer: Tokenizer, sentences: Sequence[str], top: int = 3
) -> list[FilledMask]:
    """The `top` tokens for the gap of each sentence that the model can read to its gap; its mode is kept."""
    task = FillMask(model, tokenizer, None, min(top, tokenizer.get_vocab_size()))
    examples = [task.prepare(Example(sentence)) for sentence in sentences]
    window = encode_window(tokenizer, examples, model.config.max_position_embeddings)
    encoded = (torch.from_numpy(ids).to(model.device) for ids in window.encoded[:2])
    input_ids, attention_mask = encoded
    was_training = model.training
    model.eval()
    with torch.inference_mode(), uncompiled(model):
        predictions = task.predict(input_ids, attention_mask, None, examples)
    model.train(was_training)
    filled = []
    for sentence, result in zip(sentences, predictions, strict=True):
        assert isinstance(result, dict)
        if result["masks"]:
            candidates = ((str(c["token"]), float(c["probability"])) for c in result["masks"][0])
            filled.append(FilledMask(sentence, tuple(candidates)))
    return filled
