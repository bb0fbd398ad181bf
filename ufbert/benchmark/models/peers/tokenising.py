"""English text for the encoders, and what tokenising it costs: through the same call as in `ufbert infer`."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import DataError
from ufbert.text.batching import CHARACTERS_PER_TOKEN, Example, encode_window
from ufbert.text.embedded import embedded_documents
from ufbert.text.token_places import leading_tokens
from ufbert.text.tokenization import train_tokenizer

from .job import Job

__all__ = ["prepare_text", "text_rows", "time_tokenising", "write_texts"]

TEXTS = 2048
REPETITIONS = 3
# Texts to draw batches from.
ROWS = 1024


def prepare_text(job: Job) -> Tokenizer:
    """Write the texts; a WordPiece tokenizer of the embedded corpus."""
    write_texts(job)
    return train_tokenizer(embedded_documents(), job.vocabulary)


def write_texts(job: Job) -> None:
    """Write texts of the embedded corpus that fill a sequence each, `texts.json`."""
    documents = embedded_documents()
    size = job.sequence_length * CHARACTERS_PER_TOKEN
    texts = re.findall(rf"(?s)\S.{{{size - 1}}}", "\n".join(documents))[:TEXTS]
    (job.path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")


def text_rows(tokenizer: Tokenizer, length: int, padding: int) -> npt.NDArray[np.int32]:
    """Token ids (N, T) of pieces of the embedded corpus between the special tokens, none of them padding.

    A piece is cut out of the whole corpus' tokens wherever it falls, so that every row is full. Raises `DataError` for
    a tokenizer that knows nothing of the corpus.
    """
    around = tokenizer.encode("a")
    special = np.flatnonzero(around.special_tokens_mask)
    leading = leading_tokens(tokenizer)
    before, after = [around.ids[i] for i in special if i < leading], [around.ids[i] for i in special if i >= leading]
    encodings = tokenizer.encode_batch(list(embedded_documents()), add_special_tokens=False)
    stream = np.concatenate([np.array(encoding.ids, np.int32) for encoding in encodings])
    stream = stream[stream != padding]  # where padding serves for unknown words as well, it would move the positions
    if not len(stream):
        raise DataError("the tokenizer gives English text no tokens, so there is nothing to time on")
    inside = length - len(special)
    starts = np.linspace(0, len(stream), ROWS, endpoint=False).astype(np.int64)
    rows = stream[(starts[:, None] + np.arange(inside)) % len(stream)]  # (N, T - special)
    frame = [np.full((ROWS, len(ids)), ids, np.int32) for ids in (before, after)]
    return np.concatenate([frame[0], rows, frame[1]], axis=1)


def time_tokenising(job: Job) -> dict[str, Any]:
    """The median seconds to tokenise the texts, their tokens, and how many they are.

    Tokenizers' threads are as many as RAYON_NUM_THREADS says.
    """
    tokenizer = load_tokenizer(job.path / job.options["model"])
    examples = [Example(text) for text in json.loads((job.path / "texts.json").read_text(encoding="utf-8"))]
    seconds = []
    for _ in range(1 + REPETITIONS):
        started = time.perf_counter()
        window = encode_window(tokenizer, examples, job.sequence_length)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": sorted(seconds[1:])[REPETITIONS // 2],
        "tokens": int(window.lengths.sum()),
        "texts": len(examples),
    }
