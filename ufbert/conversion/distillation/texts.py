"""The corpus of a distillation: pieces of one to three sentences, some held out, as batches of equal length."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from tokenizers import Tokenizer

from ufbert.errors import DataError
from ufbert.settings.distillation import DistillationSettings
from ufbert.text.corpus_sources import corpus_name, parse_corpus
from ufbert.text.tokenization import encode_batch

__all__ = ["MAXIMUM_LENGTH", "Batch", "Batcher", "Texts", "read_distillation_texts"]

# Sentence embedders are used on sentences and paragraphs, so these are what student and teacher agree on.
SENTENCES = (1, 1, 1, 2, 3)
# Written sentences are longer than questions, captions and headings, which want good embeddings too.
FRAGMENT_SHARE = 0.5
FRAGMENT_WORDS = (3, 15)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
SHORTEST = 12  # characters; shorter lines are headings and remains of tables
HELD_OUT_TEXTS = 500
HELD_OUT_SHARE = 0.05
MAXIMUM_LENGTH = 128  # tokens of a piece
POOL = 16  # batches that are sorted by length together


@dataclass(frozen=True)
class Texts:
    """Pieces to train on, in random order, and pieces of other documents to measure on."""

    train: list[str]
    held_out: list[str]


@dataclass(frozen=True)
class Batch:
    """int64 ids and mask of shape (B, T)."""

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor | None


def read_distillation_texts(settings: DistillationSettings) -> Texts:
    """Cut the corpus into pieces and hold some out. Raises `DataError` for a corpus without enough text."""
    draw = random.Random(settings.seed)
    sources = parse_corpus(settings.corpus, settings.text_column, streaming=True)
    train: list[str] = []
    held_out: list[str] = []
    held_out_most = min(HELD_OUT_TEXTS, max(1, settings.max_texts // 10))
    for document in chain.from_iterable(source.documents() for source in sources):
        # A document goes to one side whole, so that what is measured is text of another document.
        held = draw.random() < HELD_OUT_SHARE and len(held_out) < held_out_most
        (held_out if held else train).extend(cut(document, draw))
        if len(train) >= settings.max_texts:
            break
    names = corpus_name(settings.corpus)
    if not train:
        raise DataError(f"{names}: no text of at least {SHORTEST} characters to distil on; give another --corpus")
    draw.shuffle(train)
    del train[settings.max_texts :]
    if len(held_out) < min(20, len(train) // 4):  # few documents: hold out pieces of the same ones
        share = min(held_out_most, max(1, len(train) // 10))
        held_out, train = held_out + train[:share], train[share:]
    if not train or not held_out:
        raise DataError(f"{names}: only one piece of text; some must be held out, so give a --corpus with more")
    draw.shuffle(held_out)
    return Texts(train, held_out[:held_out_most])


def cut(document: str, draw: random.Random) -> Iterator[str]:
    """Pieces of consecutive sentences of one paragraph; some single sentences are cut down to a few words."""
    for paragraph in document.splitlines():
        sentences = SENTENCE_END.split(paragraph.strip())
        start = 0
        while start < len(sentences):
            end = start + draw.choice(SENTENCES)
            piece = " ".join(sentences[start:end])
            if end == start + 1 and draw.random() < FRAGMENT_SHARE:
                words = piece.split()
                length = draw.randint(*FRAGMENT_WORDS)
                first = draw.randint(0, max(0, len(words) - length))
                piece = " ".join(words[first : first + length])
            start = end
            if len(piece) >= SHORTEST:
                yield piece


@dataclass(frozen=True)
class Batcher:
    """Makes batches of texts for one model."""

    tokenizer: Tokenizer
    maximum: int
    """Tokens a text is cut to."""
    token_types: bool
    """Whether the model has token types."""
    device: torch.device

    def ordered(self, texts: Sequence[str], size: int) -> Iterator[Batch]:
        """All texts once, the short ones first."""
        ordered = sorted(texts, key=len)
        for start in range(0, len(ordered), size):
            yield self.encode(ordered[start : start + size])

    def endless(self, texts: Sequence[str], size: int, seed: int) -> Iterator[Batch]:
        """The texts again and again in another order each time, batches of about equally long ones."""
        draw = random.Random(seed)
        order = list(texts)
        while True:
            draw.shuffle(order)
            for start in range(0, len(order), size * POOL):
                pool = sorted(order[start : start + size * POOL], key=len)
                groups = [pool[i : i + size] for i in range(0, len(pool), size)]
                draw.shuffle(groups)
                for group in groups:
                    yield self.encode(group)

    def encode(self, texts: Sequence[str]) -> Batch:
        """Token ids with special tokens, cut and padded."""
        encoded = encode_batch(self.tokenizer, texts, max_length=self.maximum)
        return Batch(
            torch.from_numpy(encoded.input_ids).to(self.device),
            torch.from_numpy(encoded.attention_mask).to(self.device),
            torch.from_numpy(encoded.token_type_ids).to(self.device) if self.token_types else None,
        )
