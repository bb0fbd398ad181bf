"""What tokenising costs: English text through the same call as in `ufbert infer`."""

from __future__ import annotations

import json
import re
import time
from typing import Any

from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.text.batching import CHARACTERS_PER_TOKEN, Example, encode_window
from ufbert.text.embedded import embedded_documents
from ufbert.text.tokenization import train_tokenizer

from .job import Job

__all__ = ["prepare_text", "time_tokenising"]

TEXTS = 2048
REPETITIONS = 3


def prepare_text(job: Job) -> Tokenizer:
    """Write texts that fill a sequence each, `texts.json`; a WordPiece tokenizer of the embedded corpus."""
    documents = embedded_documents()
    size = job.sequence_length * CHARACTERS_PER_TOKEN
    texts = re.findall(rf"(?s)\S.{{{size - 1}}}", "\n".join(documents))[:TEXTS]
    (job.path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    return train_tokenizer(documents, job.vocabulary)


def time_tokenising(job: Job) -> dict[str, Any]:
    """The median seconds to tokenise the texts, their tokens, and how many they are.

    Tokenizers' threads are as many as RAYON_NUM_THREADS says.
    """
    tokenizer = load_tokenizer(job.path / "fff")
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
