"""Where pretraining text comes from: files, data sets of the Hugging Face hub, and what Python ships.

data/*.jsonl   more/   a.txt                  a path, a glob or a folder
hub:NAME   hub:NAME:CONFIG@SPLIT              a hub data set (or a folder that `datasets` loads);
                                              the split is `train` where none is given
embedded                                      see `embedded_corpus`
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ufbert.errors import DataError

from .embedded import embedded_documents, embedded_fingerprint
from .files import expand_paths, read_texts
from .hub import quiet_loading
from .reading import Reading

__all__ = ["EmbeddedSource", "FilesSource", "HubSource", "Source", "corpus_name", "parse_corpus", "read_documents"]

HUB_BATCH_ROWS = 256
NAMED_ENTRIES = 3  # of a long list, in a message


class Source(Protocol):
    """A stream of documents that can be read more than once."""

    @property
    def reads_once(self) -> bool:
        """Whether every reading is a download, so that there should be few of them."""

    def fingerprint(self) -> str:
        """The same as long as `documents` gives the same texts."""

    def documents(self) -> Iterator[str]:
        """The texts in a fixed order. Raises `DataError`."""


def parse_corpus(
    corpus: Sequence[str], text_column: str, streaming: bool, reading: Reading | None = None
) -> list[Source]:
    """A source for each entry of a `corpus` setting. Raises `DataError` for one that leads nowhere.

    `reading` says how text files are to be understood; `ConfigError` where it says nothing of any of them.
    """
    reading = reading or Reading()
    sources = [_parse_entry(entry, text_column, streaming, reading) for entry in corpus]
    if sources and reading.facts:
        reading.check([path for source in sources if isinstance(source, FilesSource) for path in source.paths])
    return sources


def _parse_entry(entry: str, text_column: str, streaming: bool, reading: Reading) -> Source:
    if entry == "embedded":
        return EmbeddedSource()
    try:
        if entry.startswith("hub:"):
            return HubSource.parse(entry, text_column, streaming)
        paths = expand_paths([entry])
    except DataError as error:
        if "," not in entry:
            raise
        parts = json.dumps([part.strip() for part in entry.split(",")], ensure_ascii=False)
        raise DataError(f"{error}; several are a list, corpus = {parts}, or an option --corpus for each") from error
    if pipes := [p for p in paths if not p.is_file()]:
        raise DataError(f"{pipes[0]}: a corpus is read more than once, so it must be a file")
    return FilesSource(tuple(paths), text_column, reading)


def read_documents(sources: Sequence[Source], limit: int) -> Iterator[str]:
    """The documents of all sources in order, `limit` of them at most; 0 is no limit."""
    documents = itertools.chain.from_iterable(source.documents() for source in sources)
    return itertools.islice(documents, limit or None)


def corpus_name(corpus: Sequence[str]) -> str:
    """The entries of a `corpus` setting in one short line."""
    named = ", ".join(corpus[:NAMED_ENTRIES])
    return named if len(corpus) <= NAMED_ENTRIES else f"{named} and {len(corpus) - NAMED_ENTRIES:,} more"


@dataclass(frozen=True)
class EmbeddedSource:
    """The English that every Python ships."""

    reads_once = False

    def fingerprint(self) -> str:
        """By the Python version and its files."""
        return f"embedded {embedded_fingerprint()}"

    def documents(self) -> Iterator[str]:
        """A document for each topic and each module."""
        return iter(embedded_documents())


@dataclass(frozen=True)
class FilesSource:
    """Files of one pattern. In a txt file a blank line ends a document; elsewhere a row is one."""

    paths: Sequence[Path]
    text_column: str
    reading: Reading

    reads_once = False

    def fingerprint(self) -> str:
        """By the files' contents and kinds, not their places."""
        digest = hashlib.sha256("\n".join([self.text_column, *self.reading.facts]).encode())
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    content = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{path}: cannot be read: {error.strerror}") from error
            digest.update(f"\n{''.join(path.suffixes[-2:])} {content}".encode())
        return f"files {digest.hexdigest()}"

    def documents(self) -> Iterator[str]:
        """The documents of the files in order."""
        rows = read_texts(self.paths, self.text_column, whole_documents=True, reading=self.reading)
        return (text for _, text in rows)


@dataclass(frozen=True)
class HubSource:
    """A data set that `datasets.load_dataset` loads by name; a row is a document."""

    name: str
    configuration: str | None
    split: str
    text_column: str
    streaming: bool

    @classmethod
    def parse(cls, text: str, text_column: str, streaming: bool) -> HubSource:
        """Read `hub:NAME`, `hub:NAME:CONFIG`, `hub:NAME@SPLIT` or `hub:NAME:CONFIG@SPLIT`."""
        match = re.fullmatch(r"hub:([^:@]+)(?::([^:@]+))?(?:@(.+))?", text)
        if not match or ",hub:" in text:
            raise DataError(f"{text}: write hub:NAME, hub:NAME:CONFIG or hub:NAME:CONFIG@SPLIT")
        return cls(match[1], match[2], match[3] or "train", text_column, streaming)

    def __str__(self) -> str:
        configuration = f":{self.configuration}" if self.configuration else ""
        return f"hub:{self.name}{configuration}@{self.split}"

    @property
    def reads_once(self) -> bool:
        """A stream is downloaded anew whenever it is read."""
        return self.streaming

    def fingerprint(self) -> str:
        """By the revision (on the hub) or modification time (in a folder) of the data set's files."""
        import datasets

        with self._explained():
            builder = datasets.load_dataset_builder(self.name, self.configuration)
        files = builder.config.data_files or {}
        parts = [str(self), self.text_column, builder.hash, str(builder.config.version)]
        for split in sorted(files):
            parts += [f"{split} {file}" for file in files[split]]
            parts += [str(metadata) for metadata in files[split].origin_metadata]
        return f"hub {hashlib.sha256(chr(10).join(parts).encode()).hexdigest()}"

    def documents(self) -> Iterator[str]:
        """The column's texts, row by row."""
        import datasets

        with self._explained():
            dataset = datasets.load_dataset(self.name, self.configuration, split=self.split, streaming=self.streaming)
            columns = dataset.column_names or list(next(iter(dataset), {}))
            if self.text_column not in columns:
                raise DataError(f"{self}: no column {self.text_column!r}; it has: {', '.join(columns) or 'none'}")
            batches = iter(dataset.select_columns([self.text_column]).iter(HUB_BATCH_ROWS))
        row = 0
        while True:
            with self._explained():
                batch: dict[str, list[Any]] | None = next(batches, None)
            if batch is None:
                return
            for text in batch[self.text_column]:
                row += 1
                if not isinstance(text, str):
                    found = "null" if text is None else type(text).__name__
                    raise DataError(f"{self}:{row}: {self.text_column!r} is {found}, not text; choose another column")
                yield text

    def _explained(self) -> AbstractContextManager[None]:
        return quiet_loading(f"{self}:", "check the name, configuration and split, and the network", self.name)
