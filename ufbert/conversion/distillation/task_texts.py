"""The texts that a model with a head is distilled on: whole rows, as `ufbert infer` would give them to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from ufbert.errors import ConfigError, DataError
from ufbert.model.config import UltraFastBertConfig
from ufbert.settings.distillation import DistillationSettings
from ufbert.text.corpus_sources import FilesSource, corpus_name, parse_corpus
from ufbert.text.files import read_rows
from ufbert.text.reading import Reading

from .batch import Text
from .texts import HELD_OUT_SHARE, HELD_OUT_TEXTS, LEAST_HELD_OUT, MAXIMUM_LENGTH, Texts, read_distillation_texts

__all__ = ["longest_text", "read_task_texts"]

# No token of a vocabulary is longer on average; the rest of a long text is cut off by the model anyway.
CHARACTERS_OF_A_TOKEN = 20


def longest_text(task: str, config: UltraFastBertConfig) -> int:
    """Tokens at which a text is cut: for a head where `ufbert infer` cuts it, else short, as pieces are."""
    most = config.max_position_embeddings
    if task in ("embed", "mlm"):
        return min(MAXIMUM_LENGTH, most)
    if task == "classify" and config.score_activation is not None:
        return min(most, config.provenance.get("max_seq_length") or most)
    return most


def read_task_texts(
    task: str,
    corpus: Sequence[str],
    settings: DistillationSettings,
    maximum: int,
    progress: Callable[[int], None] = lambda _: None,
) -> Texts:
    """Texts to train on and to measure on: for `embed` and `mlm` pieces of documents, for a head whole rows.

    Of rows that are alike one is taken. With `settings.pair_column` a row is a pair. `progress` hears how many rows
    were read. Raises `DataError` for a corpus without enough text, `ConfigError` for pairs of a corpus without columns.
    """
    if task in ("embed", "mlm"):
        return read_distillation_texts(corpus, settings)
    draw = random.Random(settings.seed)
    found: dict[Text, None] = {}
    for text in islice(_rows(corpus, settings, CHARACTERS_OF_A_TOKEN * maximum), settings.max_texts + HELD_OUT_TEXTS):
        found[text] = None
        progress(len(found))
    texts = list(found)
    if len(texts) < 2:
        raise DataError(
            f"{corpus_name(corpus)}: only {len(texts)} different texts to distil on, of which some must be held out; "
            "give another --corpus"
        )
    draw.shuffle(texts)
    share = max(round(HELD_OUT_SHARE * len(texts)), min(LEAST_HELD_OUT, len(texts) // 4), 1)
    held_out = min(HELD_OUT_TEXTS, share)
    return Texts(texts[held_out:][: settings.max_texts], texts[:held_out], True)


def _rows(corpus: Sequence[str], settings: DistillationSettings, characters: int) -> Iterator[Text]:
    """The texts or pairs in their order, without blank ones."""
    for source in parse_corpus(corpus, settings.text_column, streaming=True):
        if isinstance(source, FilesSource):
            for path in source.paths:
                yield from _of_file(path, settings, characters)
        elif settings.pair_column:
            raise ConfigError(
                f"--pair-column {settings.pair_column}: the pairs must stand in files with columns (jsonl, csv, tsv, "
                "parquet)"
            )
        else:
            yield from (text[:characters] for text in source.documents() if text.strip())


def _of_file(path: Path, settings: DistillationSettings, characters: int) -> Iterator[Text]:
    # A txt file has lines, and no columns.
    column = "text" if Reading().format(path) == "txt" else settings.text_column
    columns = [column, settings.pair_column] if settings.pair_column else [column]
    for row in read_rows(path, columns=columns, text_columns=columns):
        first, *second = (row.fields[name][:characters] for name in columns)
        if any(text.strip() for text in (first, *second)):
            yield (first, second[0]) if second else first
