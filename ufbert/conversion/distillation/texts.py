"""The corpus of a distillation: pieces of one to three sentences, some held out, as batches of equal length."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from ufbert.errors import DataError
from ufbert.settings.distillation import DistillationSettings
from ufbert.text.batching import sorted_batches
from ufbert.text.corpus_sources import corpus_name, parse_corpus
from ufbert.text.tokenization import EncodedBatch, encode_batch

from .batch import Batch, Masker, Text
from .fingerprints import texts_fingerprint

__all__ = [
    "HELD_OUT_SHARE",
    "HELD_OUT_TEXTS",
    "LEAST_HELD_OUT",
    "MAXIMUM_LENGTH",
    "Batch",
    "Batcher",
    "Texts",
    "read_distillation_texts",
]

# Sentence embedders are used on sentences and paragraphs, so these are what student and teacher agree on.
SENTENCES = (1, 1, 1, 2, 3)
# Written sentences are longer than questions, captions and headings, which want good embeddings too.
FRAGMENT_SHARE = 0.5
FRAGMENT_WORDS = (3, 15)
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
SHORTEST = 12  # characters; shorter lines are headings and remains of tables
HELD_OUT_TEXTS = 500
HELD_OUT_SHARE = 0.05
LEAST_HELD_OUT = 20  # texts, where a quarter of the corpus has so many
MAXIMUM_LENGTH = 128  # tokens of a piece
POOL = 64  # batches of texts that are sorted by length together: of a corpus' pieces 3 % is padding then


@dataclass(frozen=True)
class Texts:
    """Pieces to train on and pieces to measure on, both in random order."""

    train: Sequence[Text]
    held_out: Sequence[Text]
    documents_apart: bool
    """Whether no held-out piece is of a document that is trained on."""

    @property
    def held_out_from(self) -> str:
        """Where the held-out pieces come from, for the reader of figures measured on them."""
        return "other documents" if self.documents_apart else "the same documents"

    @property
    def fingerprint(self) -> str:
        """The same for the same pieces in the same order."""
        return texts_fingerprint(*map(_flat, (self.train, self.held_out)))


def read_distillation_texts(corpus: Sequence[str], settings: DistillationSettings) -> Texts:
    """Cut the corpus into pieces and hold some out: whole documents, unless there are too few of them.

    Raises `DataError` for a corpus without enough text.
    """
    draw = random.Random(settings.seed)
    names = corpus_name(corpus)
    sources = parse_corpus(corpus, settings.text_column, streaming=True)
    texts = chain.from_iterable(source.documents() for source in sources)
    most = min(HELD_OUT_TEXTS, max(1, settings.max_texts // 10))
    documents, held_documents = _Documents(), _Documents()
    for text in texts:
        held = draw.random() < HELD_OUT_SHARE and held_documents.pieces < most
        (held_documents if held else documents).add(cut(text, draw))
        if documents.pieces >= settings.max_texts:
            break
    if documents.pieces < min(held_documents.pieces, settings.max_texts):  # chance has held out most of it
        for document in held_documents.documents:
            documents.add(document)
        held_documents = _Documents()
    if not documents.pieces:
        raise DataError(f"{names}: no text of at least {SHORTEST} characters to distil on; give another --corpus")
    wanted = max(1, min(LEAST_HELD_OUT, most, min(documents.pieces, settings.max_texts) // 4))
    while held_documents.pieces < wanted and (unread := next(texts, None)) is not None:
        held_documents.add(cut(unread, draw))
    if held_documents.pieces < wanted:
        documents.give(held_documents, wanted - held_documents.pieces, draw)
    train, held_out = documents.joined(), held_documents.joined()
    draw.shuffle(train)
    del train[settings.max_texts :]
    documents_apart = len(held_out) >= wanted
    if not documents_apart:
        share = min(most, max(1, len(train) // 10))
        held_out, train = held_out + train[:share], train[share:]
    if not train:
        raise DataError(f"{names}: only one piece of text; some must be held out, so give a --corpus with more")
    draw.shuffle(held_out)
    return Texts(train, held_out[:most], documents_apart)


class _Documents:
    """Documents as lists of their pieces."""

    def __init__(self) -> None:
        self.documents: list[list[str]] = []
        self.pieces = 0

    def add(self, pieces: Iterable[str]) -> None:
        """One document more, unless it has no piece."""
        if document := list(pieces):
            self.documents.append(document)
            self.pieces += len(document)

    def joined(self) -> list[str]:
        """All pieces."""
        return list(chain.from_iterable(self.documents))

    def give(self, other: _Documents, wanted: int, draw: random.Random) -> None:
        """Move documents of at least `wanted` pieces to `other`, if that leaves at least half of the pieces here.

        Which ones is left to chance where it can be; else the shortest go.
        """
        order = list(range(len(self.documents)))
        draw.shuffle(order)
        for candidates in (order, sorted(order, key=lambda i: len(self.documents[i]))):
            moved: list[int] = []
            count = 0
            while candidates and count < wanted:
                moved.append(candidates.pop(0))
                count += len(self.documents[moved[-1]])
            while count - len(self.documents[moved[0]]) >= wanted:  # the last one may do alone
                count -= len(self.documents[moved.pop(0)])
            if wanted <= count <= self.pieces // 2:
                for i in moved:
                    other.add(self.documents[i])
                self.documents = [document for i, document in enumerate(self.documents) if i not in moved]
                self.pieces -= count
                return


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
    """Makes batches of texts, or of pairs, for one model."""

    tokenizer: Tokenizer
    maximum: int
    """Tokens a text is cut to."""
    token_types: bool
    """Whether the model has token types."""
    device: torch.device
    masker: Masker | None = None
    """Masks the texts of a masked LM."""

    def ordered(self, texts: Sequence[Text], size: int) -> Iterator[Batch]:
        """All texts once, the short ones first."""
        encoded = self._tokens(texts)
        for number, rows in enumerate(_sorted(encoded, size)):
            yield self._batch(_rows(encoded, rows), number=number)

    def endless(self, texts: Sequence[Text], size: int, seed: int, *, skip: int = 0) -> Iterator[Batch]:
        """The texts again and again in another order each time, batches of about equally long ones.

        The first `skip` batches are left out, which costs little.
        """
        draw = random.Random(seed)
        order = list(range(len(texts)))
        number = 0
        while True:
            draw.shuffle(order)
            for start in range(0, len(order), POOL * size):
                pool = order[start : start + POOL * size]
                places = list(range(-(-len(pool) // size)))
                draw.shuffle(places)
                if number + len(places) > skip:
                    encoded = self._tokens([texts[row] for row in pool])
                    batches = _sorted(encoded, size)
                    for later, place in enumerate(places):
                        if number + later >= skip:
                            yield self._batch(_rows(encoded, batches[place]), seed=seed + 1, number=number + later)
                number += len(places)

    def encode(self, texts: Sequence[Text]) -> Batch:
        """Token ids with special tokens, cut and padded."""
        return self._batch(self._tokens(texts))

    def _batch(self, encoded: EncodedBatch, *, seed: int = 0, number: int = 0) -> Batch:
        """Masks are drawn by seed and number, where there are any."""
        encoded.attention_mask[:, 0] = 1  # attention needs one position, even of a text that gives no token
        ids, mask = torch.from_numpy(encoded.input_ids), torch.from_numpy(encoded.attention_mask)
        masked: torch.Tensor | None = None
        if self.masker is not None:
            ids, masked = self.masker.apply(ids, mask, seed, number)
        return Batch(
            ids.to(self.device),
            mask.to(self.device),
            torch.from_numpy(encoded.token_type_ids).to(self.device) if self.token_types else None,
            None if masked is None else masked.to(self.device),
        )

    def token_ids(self, texts: Sequence[Text]) -> list[list[int]]:
        """Of each text, without padding; texts that give no token are left out."""
        encoded = self._tokens(texts)
        rows = zip(encoded.input_ids, encoded.attention_mask, strict=True)
        return [ids[: int(mask.sum())].tolist() for ids, mask in rows if mask.any()]

    def _tokens(self, texts: Sequence[Text]) -> EncodedBatch:
        first, second = zip(*((text, None) if isinstance(text, str) else text for text in texts), strict=True)
        pairs = None if second[0] is None else second
        return encode_batch(self.tokenizer, first, pairs, max_length=self.maximum)


def _flat(texts: Sequence[Text]) -> Iterator[str]:
    for text in texts:
        if isinstance(text, str):
            yield text
        else:
            yield from text


def _sorted(encoded: EncodedBatch, size: int) -> list[npt.NDArray[np.int64]]:
    """The rows by rising length, `size` at a time."""
    return sorted_batches(np.arange(len(encoded.input_ids)), encoded.attention_mask.sum(1), size)


def _rows(encoded: EncodedBatch, rows: npt.NDArray[np.int64]) -> EncodedBatch:
    """A copy of those rows, as wide as the longest needs."""
    ids, mask, types, _ = encoded
    width = max(1, int(mask[rows].sum(1).max()))
    return EncodedBatch(ids[rows, :width], mask[rows, :width], types[rows, :width], 0)
