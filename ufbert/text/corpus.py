"""A corpus setting to a tokenizer and blocks of token ids on disk, made once and kept by content."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from ufbert.checkpoint.tokenizer import load_tokenizer, save_tokenizer, special_token_id
from ufbert.errors import CheckpointError, DataError
from ufbert.reporting import note, progress
from ufbert.settings.toml import DataSettings
from ufbert.system.resources import available_cores

from .corpus_cache import FORMAT, cache_folder, cache_key, new_in_cache
from .corpus_sources import Source, corpus_name, parse_corpus, read_documents
from .corpus_tokenizer import corpus_tokenizer
from .likelihood import sort_blocks
from .packing import DocumentIndex, Ids, first_of_each, hold_out, move_last_blocks, pack_blocks, tokenize_documents
from .reading import Reading

__all__ = ["PreparedCorpus", "TokenBlocks", "epoch_order", "open_corpus", "prepare_corpus"]


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """Blocks of T token ids, read from disk as they are asked for."""

    ids: Ids
    """(blocks, T), a read-only memory map of uint16 or int32."""
    ordered: bool = False
    """Whether training takes the blocks in the order they have, because `data.sort_by_likelihood` made it."""

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: Any) -> npt.NDArray[np.int64]:
        """The blocks of an index, slice or index array, as an int64 copy in memory."""
        return np.array(self.ids[index], dtype=np.int64)

    @property
    def sequence_length(self) -> int:
        """T, the ids of a block."""
        return int(self.ids.shape[1])

    @property
    def tokens(self) -> int:
        """Ids in all blocks."""
        return int(self.ids.size)


@dataclass(frozen=True, eq=False)
class PreparedCorpus:
    """What pretraining needs of its text."""

    tokenizer: Tokenizer
    train: TokenBlocks
    validation: TokenBlocks
    folder: Path
    """Where `open_corpus` finds all this again."""
    fingerprint: str
    """Changes when the blocks would: with the texts, the tokenizer and the settings that matter."""
    train_documents: int
    validation_documents: int
    dropped_documents: int
    """Documents with more tokens than `data.max_tokens_per_character` allows."""
    duplicate_documents: int
    """Documents that `data.deduplicate` left out."""
    reused: bool
    """Whether the blocks were there already."""


def prepare_corpus(data: DataSettings, vocab_size: int, *, seed: int = 0) -> PreparedCorpus:
    """Tokenizer and blocks for the corpus that `data` describes, from the cache if they are there.

    Documents are tokenised, joined with [SEP] after each (no [CLS]) and cut into blocks; the last,
    incomplete block is dropped. Without `data.validation_corpus`, the documents of the lowest hashes
    (of text and `seed`) that hold `data.validation_fraction` of the tokens, and one block at least, are
    held out; where there are too few documents for that, the last blocks of the text are.
    `data.max_documents` counts documents of the training corpus, `data.deduplicate` then leaves out the
    repeated ones and those that `data.validation_corpus` has too, and `data.sort_by_likelihood` sorts the
    training blocks.

    A new tokenizer of `vocab_size` entries learns from the whole corpus, the held-out documents included,
    if it has up to 100 million characters; else from documents of that size together, evenly drawn by
    hash, or the first of a stream.

    Raises `DataError` for unusable or too little text, `CheckpointError` for an unusable `data.tokenizer`,
    `OutputError` for a cache folder that cannot be written.
    """
    reading = Reading(encoding=data.encoding, delimiter=data.delimiter, header=data.header)
    sources = parse_corpus(data.corpus, data.text_column, data.streaming, reading)
    held_out = parse_corpus(data.validation_corpus, data.text_column, data.streaming, reading)
    prints = [source.fingerprint() for source in sources]
    tokenizer = corpus_tokenizer(data, vocab_size, sources, prints)
    key = cache_key(
        FORMAT,
        prints,
        [source.fingerprint() for source in held_out],
        0.0 if held_out else data.validation_fraction,
        seed,
        data.max_documents,
        data.sequence_length,
        data.max_tokens_per_character,
        tokenizer.to_str(),
        # Named only where they are on, so that what was made before there were such settings is found again.
        *(name for name in ("deduplicate", "sort_by_likelihood") if getattr(data, name)),
    )
    folder = cache_folder(data) / "corpora" / key
    facts = _read_facts(folder)
    reused = facts is not None
    if facts is None:
        with new_in_cache(folder) as temporary:
            facts = _tokenize(data, tokenizer, sources, held_out, temporary, seed)
            save_tokenizer(tokenizer, temporary, data.sequence_length)
            (temporary / "corpus.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    corpus = _prepared(folder, facts, tokenizer, reused)
    note(
        f"{'Reusing the tokenised' if reused else 'Tokenised the'} corpus: {corpus.train_documents:,} documents, "
        f"{corpus.train.tokens:,} tokens in {len(corpus.train):,} blocks of {corpus.train.sequence_length}; "
        f"held out: {_held_out(corpus)}" + _left_out(corpus)
    )
    return corpus


def _held_out(corpus: PreparedCorpus) -> str:
    """What the held-out blocks are, for the note on a corpus."""
    blocks = f"{len(corpus.validation):,} block{'s' if len(corpus.validation) != 1 else ''}"
    if corpus.validation_documents:
        return f"{corpus.validation_documents:,} documents, {blocks}"
    return f"the last {blocks}, of documents that are trained on too (there are too few to hold out whole ones)"


def open_corpus(folder: Path) -> PreparedCorpus | None:
    """What `prepare_corpus` has left in `folder`, without a look at the texts; None unless it is whole."""
    facts = _read_facts(folder)
    try:
        return _prepared(folder, facts, load_tokenizer(folder), reused=True) if facts else None
    except CheckpointError:  # blocks of an earlier version lie there without their tokenizer
        return None


def _left_out(corpus: PreparedCorpus) -> str:
    reasons = [(corpus.dropped_documents, "of too many tokens"), (corpus.duplicate_documents, "seen before")]
    named = [f"{count:,} document{'s' if count != 1 else ''} {reason}" for count, reason in reasons if count]
    return f"; dropped: {', '.join(named)}" if named else ""


def _prepared(folder: Path, facts: dict[str, Any], tokenizer: Tokenizer, reused: bool) -> PreparedCorpus:
    return PreparedCorpus(
        tokenizer=tokenizer,
        train=_open_blocks(folder, "train", facts),
        validation=_open_blocks(folder, "validation", facts),
        folder=folder,
        fingerprint=folder.name,
        train_documents=facts["train_documents"],
        validation_documents=facts["validation_documents"],
        dropped_documents=facts["dropped_documents"],
        duplicate_documents=facts.get("duplicate_documents", 0),  # older ones had no such setting
        reused=reused,
    )


def epoch_order(blocks: int, epoch: int, seed: int) -> npt.NDArray[np.int64]:
    """The order of an epoch's blocks, a permutation that depends on the arguments alone, so a run can resume."""
    return np.random.default_rng([seed, epoch]).permutation(blocks)


def _tokenize(
    data: DataSettings,
    tokenizer: Tokenizer,
    sources: list[Source],
    held_out: list[Source],
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Write `train.ids` and `validation.ids` into `folder`; returns what `corpus.json` says of them."""
    dtype = np.uint16 if max(tokenizer.get_vocab().values()) < 1 << 16 else np.int32
    length = data.sequence_length

    def tokenize(name: str, sources: list[Source], limit: int) -> tuple[Path, DocumentIndex]:
        file = folder / f"{name}.all"
        with progress() as bar:
            task = bar.add_task(f"Tokenising {name} documents", total=limit or None)
            index = tokenize_documents(
                read_documents(sources, limit),
                tokenizer,
                special_token_id(tokenizer, "sep"),
                file,
                dtype=dtype,
                workers=data.workers or available_cores(),
                max_tokens_per_character=data.max_tokens_per_character,
                seed=seed,
                advance=lambda documents: bar.advance(task, documents),
            )
        return file, index

    note("Tokenising the corpus")
    file, index = tokenize("training", sources, data.max_documents)
    kept = _distinct(index, data.deduplicate)
    duplicates = int((~kept).sum())
    if held_out:
        other_file, other = tokenize("held-out", held_out, 0)
        other_kept = chosen = _distinct(other, data.deduplicate)
        if data.deduplicate:
            kept &= ~np.isin(index.hashes, other.hashes)
        duplicates = int((~kept).sum() + (~other_kept).sum())
        train = kept
    else:
        chosen = hold_out(index, kept, data.validation_fraction, length)
        other_file, other, other_kept = file, index, kept
        train = kept & ~chosen
    blocks = {
        "train": pack_blocks(file, index, train, folder / "train.ids", dtype=dtype, length=length),
        "validation": pack_blocks(other_file, other, chosen, folder / "validation.ids", dtype=dtype, length=length),
    }
    if not held_out and not all(blocks.values()):  # of too few documents the last blocks are held out
        train, chosen = kept, np.zeros_like(kept)
        whole = pack_blocks(file, index, train, folder / "train.ids", dtype=dtype, length=length)
        share = min(whole // 2, max(1, round(data.validation_fraction * whole)))
        move_last_blocks(folder / "train.ids", folder / "validation.ids", share, dtype=dtype, length=length)
        blocks = {"train": whole - share, "validation": share}
    if not blocks["train"]:
        _complain_of_too_little(data, "train", index, kept)
    if not blocks["validation"]:
        _complain_of_too_little(data, "validation", other, other_kept)
    if data.sort_by_likelihood:
        note("Sorting the blocks by the likelihood of their tokens")
        sort_blocks(folder / "train.ids", blocks["train"], dtype=dtype, length=length)
    for path in {file, other_file}:
        path.unlink()
    return {
        "format": FORMAT,
        "dtype": np.dtype(dtype).name,
        "sequence_length": length,
        "train_blocks": blocks["train"],
        "validation_blocks": blocks["validation"],
        "ordered": data.sort_by_likelihood,
        "train_documents": int(train.sum()),
        "validation_documents": int(chosen.sum()),
        "dropped_documents": index.dropped + (other.dropped if held_out else 0),
        "duplicate_documents": duplicates,
        "vocab_size": tokenizer.get_vocab_size(),
    }


def _distinct(index: DocumentIndex, deduplicate: bool) -> npt.NDArray[np.bool_]:
    return first_of_each(index) if deduplicate else np.ones(len(index.ends), np.bool_)


def _complain_of_too_little(
    data: DataSettings, name: str, index: DocumentIndex, kept: npt.NDArray[np.bool_]
) -> NoReturn:
    """Raise the `DataError` for a side, `train` or `validation`, without a block; `index` is of its text."""
    documents, length = int(kept.sum()), data.sequence_length
    tokens = int(np.diff(index.ends, prepend=0)[kept].sum())
    own = name == "validation" and bool(data.validation_corpus)
    found = f"{tokens:,} tokens in {documents:,} document{'s' if documents != 1 else ''}"
    if index.dropped:
        found += f" ({index.dropped:,} dropped by data.max_tokens_per_character)"
    if duplicates := len(kept) - documents:
        found += f" ({duplicates:,} dropped by data.deduplicate)"
    if data.validation_corpus:
        problem = f"are too few for one {'held-out' if own else 'training'} block of {length}"
    else:
        problem = f"are too few for a training and a held-out block of {length}"
    advice = "give more text or lower data.sequence_length"
    raise DataError(f"{corpus_name(data.validation_corpus if own else data.corpus)}: {found} {problem}; {advice}")


def _read_facts(folder: Path) -> dict[str, Any] | None:
    """The content of a cached `corpus.json`, or None unless it and its files are whole."""
    try:
        facts: dict[str, Any] = json.loads((folder / "corpus.json").read_text(encoding="utf-8"))
        for name in ("train", "validation"):
            size = facts[f"{name}_blocks"] * facts["sequence_length"] * np.dtype(facts["dtype"]).itemsize
            if facts["format"] != FORMAT or (folder / f"{name}.ids").stat().st_size != size:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return facts


def _open_blocks(folder: Path, name: str, facts: dict[str, Any]) -> TokenBlocks:
    shape = (facts[f"{name}_blocks"], facts["sequence_length"])
    ids = np.memmap(folder / f"{name}.ids", np.dtype(facts["dtype"]), "r", shape=shape)
    return TokenBlocks(ids, ordered=name == "train" and facts.get("ordered", False))
