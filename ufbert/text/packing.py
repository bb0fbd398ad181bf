"""Documents to one file of token ids, and from there to blocks of equal length.

Nothing here holds a corpus in memory: ids go to the file as they come, and what stays is 16 bytes for each
document, its end in the file and the hash of its text.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

__all__ = [
    "DocumentIndex",
    "first_of_each",
    "hash_document",
    "hold_out",
    "move_last_blocks",
    "pack_blocks",
    "tokenize_documents",
]

BATCH_CHARACTERS = 1 << 19
# A longer document is encoded in pieces: the library keeps some hundred bytes for a token while it works.
PIECE_CHARACTERS = 1 << 17
COPIED_IDS = 1 << 22

T = TypeVar("T")
R = TypeVar("R")
Ids = npt.NDArray[np.uint16] | npt.NDArray[np.int32]


@dataclass(frozen=True)
class DocumentIndex:
    """Which ids of a file belong to which document; both arrays have one entry for each document."""

    ends: npt.NDArray[np.int64]
    """Position after the document's last id, its [SEP]."""
    hashes: npt.NDArray[np.uint64]
    """Hash of the text."""
    dropped: int
    """Documents left out because they have too many tokens for their characters."""

    @property
    def tokens(self) -> int:
        """Ids in the file."""
        return int(self.ends[-1]) if len(self.ends) else 0


def hash_document(text: str, seed: int = 0) -> int:
    """64 bits that look random and depend on the text and the seed alone."""
    key = seed.to_bytes(16, "little", signed=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, key=key).digest(), "little")


def tokenize_documents(
    documents: Iterable[str],
    tokenizer: Tokenizer,
    separator: int,
    file: Path,
    *,
    dtype: npt.DTypeLike,
    workers: int,
    max_tokens_per_character: float = 0.0,
    seed: int = 0,
    advance: Callable[[int], None] = lambda documents: None,
) -> DocumentIndex:
    """Write the ids of all documents to `file`, each document followed by the `separator` id.

    Documents without a token are skipped; so are, if `max_tokens_per_character` is not 0, those with more tokens for
    each character. `workers` threads encode (tokenizers releases Python's lock). `advance` is told how many
    documents have been written since its last call.
    """
    ends, hashes = array("q"), array("Q")
    position = dropped = 0

    def encode(batch: list[str]) -> list[tuple[npt.NDArray[Any], int, int]]:
        """(ids, characters, hash) of each document."""
        pieces = [list(_pieces(text)) for text in batch]
        encodings = iter(tokenizer.encode_batch_fast([p for ps in pieces for p in ps], add_special_tokens=False))
        return [
            (
                np.concatenate([np.array(next(encodings).ids, dtype) for _ in parts]),
                len(text),
                hash_document(text, seed),
            )
            for text, parts in zip(batch, pieces, strict=True)
        ]

    with _threads_of_our_own(), ThreadPoolExecutor(workers) as pool, file.open("wb") as output:
        for batch in _ordered(pool, encode, _batches(documents), 2 * workers):
            for ids, characters, text_hash in batch:
                if not len(ids):  # of characters that the tokenizer drops
                    continue
                if max_tokens_per_character and len(ids) > max_tokens_per_character * characters:
                    dropped += 1
                    continue
                output.write(np.append(ids, np.array([separator], dtype)).tobytes())
                position += len(ids) + 1
                ends.append(position)
                hashes.append(text_hash)
            advance(len(batch))
    return DocumentIndex(np.array(ends, np.int64), np.array(hashes, np.uint64), dropped)


def first_of_each(index: DocumentIndex) -> npt.NDArray[np.bool_]:
    """Which documents are no repetition, letter by letter, of an earlier one; their hashes decide."""
    first = np.zeros(len(index.hashes), np.bool_)
    first[np.unique(index.hashes, return_index=True)[1]] = True
    return first


def hold_out(
    index: DocumentIndex, kept: npt.NDArray[np.bool_], fraction: float, least_tokens: int
) -> npt.NDArray[np.bool_]:
    """Which of the `kept` documents to hold out: those of the lowest hashes with `fraction` of their tokens together.

    At least `least_tokens` are held out where the corpus allows it. Documents too long for that amount are
    passed over, so that one of them does not empty the other side. Equal texts stay on one side.
    """
    lengths = np.where(kept, np.diff(index.ends, prepend=0), 0)
    wanted = max(fraction * int(lengths.sum()), least_tokens)
    chosen = np.zeros(len(lengths), np.bool_)
    held = 0
    for document in np.argsort(index.hashes, kind="stable"):
        if held >= wanted:
            break
        if held + lengths[document] <= 2 * wanted:
            chosen[document] = True
            held += int(lengths[document])
    if held < least_tokens and (lengths >= least_tokens).any():
        chosen[:] = False
        chosen[np.where(lengths >= least_tokens, lengths, index.tokens + 1).argmin()] = True
    return np.isin(index.hashes, index.hashes[chosen]) & kept


def pack_blocks(
    source: Path, index: DocumentIndex, chosen: npt.NDArray[np.bool_], destination: Path, *, dtype: Any, length: int
) -> int:
    """Join the ids of the chosen documents of `source` in `destination`; drop what is left after whole blocks.

    Returns the number of blocks of `length` ids.
    """
    ids: Ids = np.memmap(source, dtype, "r") if index.tokens else np.zeros(0, dtype)
    starts = np.concatenate([[0], index.ends[:-1]]) if len(index.ends) else index.ends
    # Neighbours that are chosen together are copied together.
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0))
    total = 0
    with destination.open("wb") as output:
        for first, after in zip(edges[::2], edges[1::2], strict=True):
            for start in range(int(starts[first]), int(index.ends[after - 1]), COPIED_IDS):
                piece = ids[start : min(start + COPIED_IDS, int(index.ends[after - 1]))]
                output.write(piece.tobytes())
                total += len(piece)
        blocks = total // length
        output.truncate(blocks * length * np.dtype(dtype).itemsize)
    return blocks


def move_last_blocks(source: Path, destination: Path, count: int, *, dtype: Any, length: int) -> None:
    """Cut the last `count` blocks of `length` ids off `source`, and write them to `destination`."""
    size = count * length * np.dtype(dtype).itemsize
    with source.open("r+b") as file:
        file.seek(-size, os.SEEK_END)
        destination.write_bytes(file.read())
        file.seek(-size, os.SEEK_END)
        file.truncate()


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    characters = 0
    for text in documents:
        if not text or text.isspace():
            continue
        batch.append(text)
        characters += len(text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _pieces(text: str) -> Iterator[str]:
    """The text, cut before white space where it is long, which changes no token."""
    start = 0
    while len(text) - start > PIECE_CHARACTERS:
        cut = re.compile(r"\s").search(text, start + PIECE_CHARACTERS)
        if cut is None:
            break
        yield text[start : cut.start()]
        start = cut.start()
    yield text[start:]


def _ordered(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """`pool.map` that reads at most `ahead` items before it yields their results."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@contextlib.contextmanager
def _threads_of_our_own() -> Iterator[None]:
    """Keep tokenizers from using all cores in each call, so that the number of threads is ours to set."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ[name] = before if before is not None else "true"
