"""The tokenizer of a corpus: a ready one, or one that learns from an even sample of its documents."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import load_tokenizer, save_tokenizer
from ufbert.errors import CheckpointError
from ufbert.reporting import note, progress
from ufbert.settings.sections import DataSettings

from .corpus_cache import FORMAT, cache_folder, cache_key, new_in_cache
from .corpus_sources import Source, read_documents
from .packing import hash_document
from .tokenization import drop_non_ascii, train_tokenizer

__all__ = ["corpus_tokenizer", "sample_documents"]

# A new tokenizer learns from at most so many characters, whole documents evenly drawn from the corpus.
TOKENIZER_CHARACTERS = 100_000_000


def corpus_tokenizer(data: DataSettings, vocab_size: int, sources: list[Source], prints: list[str]) -> Tokenizer:
    """The ready tokenizer that `data` names, or one of `vocab_size` entries trained on the corpus and cached.

    `prints` are the fingerprints of `sources`. Raises `CheckpointError`, `DataError` or `OutputError`.
    """
    if data.tokenizer:
        tokenizer = load_tokenizer(data.tokenizer)
        return drop_non_ascii(tokenizer) if data.ascii_only else tokenizer
    parts = [FORMAT, prints, vocab_size, data.lowercase, data.min_frequency, data.max_documents, TOKENIZER_CHARACTERS]
    key = cache_key(*parts, *(["ascii_only"] if data.ascii_only else []))
    folder = cache_folder(data) / "tokenizers" / key
    try:
        return load_tokenizer(folder)
    except CheckpointError:
        pass  # not there, or damaged: made anew below
    note(f"Training a tokenizer of up to {vocab_size:,} entries")
    with progress() as bar:
        task = bar.add_task("Reading text for the tokenizer", total=data.max_documents or None)
        first_only = any(source.reads_once for source in sources)
        sample = sample_documents(
            read_documents(sources, data.max_documents), TOKENIZER_CHARACTERS, first_only, lambda: bar.advance(task)
        )
        bar.update(task, description="Training the tokenizer")
        tokenizer = train_tokenizer(
            sample,
            vocab_size,
            lowercase=data.lowercase,
            min_frequency=data.min_frequency,
            ascii_only=data.ascii_only,
        )
    with new_in_cache(folder) as temporary:
        save_tokenizer(tokenizer, temporary, data.sequence_length)
    return tokenizer


def sample_documents(
    documents: Iterator[str], limit: int, first_only: bool, advance: Callable[[], None] = lambda: None
) -> list[str]:
    """Documents of at most `limit` characters together (one document at least), in their order.

    They are those whose hash is below a threshold that falls as they come, so an even and repeatable draw
    needs one reading and no more memory than the result; or the first ones, with `first_only`.
    """
    kept: list[tuple[int, str]] = []
    characters = 0
    threshold = 1 << 64
    for text in documents:
        advance()
        text_hash = hash_document(text)
        if text_hash >= threshold:
            continue
        kept.append((text_hash, text))
        characters += len(text)
        if characters > limit and first_only:
            break
        while characters > limit and len(kept) > 1:
            threshold //= 2
            kept = [entry for entry in kept if entry[0] < threshold] or [min(kept)]
            characters = sum(len(text) for _, text in kept)
    return [text for _, text in kept]
