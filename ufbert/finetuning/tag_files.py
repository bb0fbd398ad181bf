"""Sentences of words with a tag each, out of files.

jsonl, json and parquet have a list of words and a list of tags in each row. CoNLL's columns (.conll, .bio, .txt, .tsv)
have a word a line: the first column is the word, the last its tag, tabs or blanks stand between, and a blank line ends
the sentence; `-DOCSTART-`, comments such as `# id 7` and a header row are no words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufbert.errors import DataError
from ufbert.text.byte_streams import COMPRESSIONS, text_lines, without_end
from ufbert.text.files import file_format, read_rows
from ufbert.text.reading import Reading
from ufbert.text.rows import find_column, is_missing, missing_column

from .labelled_rows import metadata_names

__all__ = ["SUPPORTED", "TaggedRows", "read_tagged", "tag_format"]

SUPPORTED = (
    "tags are read from .jsonl .json .conll .bio .txt .tsv (each also .gz, .zst, .bz2 or .xz) and .parquet; "
    "the four in the middle have a word and its tag a line"
)
WORD_COLUMNS = ("tokens", "words")
TAG_COLUMNS = ("ner_tags", "tags")
COLUMN_FILES = (".conll", ".bio", ".txt", ".tsv")
DOCUMENT = "-DOCSTART-"
COMMENT = re.compile(r"#\s*(id\s|\w+\s*=)")
HEADS = ({"word", "words", "token", "tokens", "form"}, {"tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags"})
"""What first and last columns are called where a file names them."""

OnBad = Callable[[DataError], None] | None


@dataclass
class TaggedRows:
    """Sentences with the place of each."""

    source: str
    words: list[list[str]] = field(default_factory=list)
    tags: list[list[Any]] = field(default_factory=list)
    """As they stand in the file: names, or numbers of names."""
    places: list[tuple[str, int]] = field(default_factory=list)
    """File and line of every sentence."""
    names: tuple[str, ...] | None = None
    """From the files' metadata."""
    empty: int = 0
    """Rows without any word, which are none."""

    def where(self, row: int) -> str:
        """`file:line` of a sentence."""
        return "{}:{}".format(*self.places[row])

    def __len__(self) -> int:
        return len(self.words)


def tag_format(path: Path) -> str | None:
    """`jsonl`, `parquet` or `conll` by the file's suffix; None where it is none of them."""
    inner = Path(path.stem) if path.suffix.lower() in COMPRESSIONS else path
    if inner.suffix.lower() in COLUMN_FILES:
        return "conll"
    kind = file_format(path)
    return kind if kind in ("jsonl", "parquet") else None


def read_tagged(
    paths: Sequence[Path], word_column: str | None, tag_column: str | None, reading: Reading, on_bad: OnBad = None
) -> TaggedRows:
    """All sentences of files. A bad one raises `DataError` with `file:line`, or goes to `on_bad` and is left out.

    Columns that are None are the first of `WORD_COLUMNS` and `TAG_COLUMNS` that a file has.
    """
    rows = TaggedRows(", ".join(path.name for path in paths))
    for path in paths:
        if tag_format(path) == "conll":
            found = _read_columns(path, reading.encoding)
        else:
            columns = _choose_columns(path, (word_column, tag_column), reading)
            found = _read_lists(path, *columns, reading, on_bad)
            names = metadata_names(path, columns[1])
            if names is not None and rows.names not in (None, names):
                raise DataError(f"{path}: its tags {names} are not those of {paths[0]}, {rows.names}")
            rows.names = names or rows.names
        before = len(rows)
        for line, sentence in found:
            if isinstance(sentence, DataError):
                if on_bad is None:
                    raise sentence
                on_bad(sentence)
            elif not sentence[0]:
                rows.empty += 1
            else:
                rows.words.append(sentence[0])
                rows.tags.append(sentence[1])
                rows.places.append((str(path), line))
        if len(rows) == before:
            raise DataError(f"{path}: no sentence in it that can be used; give a file of words with tags")
    return rows


Sentence = tuple[list[str], list[Any]]


def _choose_columns(path: Path, given: tuple[str | None, str | None], reading: Reading) -> tuple[str, str]:
    """What a file calls its columns of words and tags, by its first row."""
    if given[0] is not None and given[1] is not None:
        return given[0], given[1]
    first = next(read_rows(path, on_bad=lambda _: None, reading=reading), None)
    if first is None:
        raise DataError(f"{path}: no row in it can be read; give a file of words with tags")
    chosen = []
    for name, usual, option in zip(
        given, (WORD_COLUMNS, TAG_COLUMNS), ("--text-column", "--label-column"), strict=True
    ):
        known = [name] if name is not None else [n for n in usual if find_column(n, first.fields) is not None]
        if not known:
            raise DataError(
                f"{first.where}: no column {' or '.join(map(repr, usual))}; give {option}; "
                f"it has: {', '.join(first.fields) or 'none'}"
            )
        chosen.append(known[0])
    return chosen[0], chosen[1]


def _read_lists(
    path: Path, word_column: str, tag_column: str, reading: Reading, on_bad: OnBad
) -> Iterator[tuple[int, Sentence | DataError]]:
    # Asked for its columns, the reader would take a file of a single object for a list of each column's values.
    columns = [word_column, tag_column] if tag_format(path) == "parquet" else None
    for row in read_rows(path, columns=columns, on_bad=on_bad, reading=reading):
        own = [find_column(name, row.fields) for name in (word_column, tag_column)]
        if None in own:
            missing = tag_column if own[0] is not None else word_column
            yield row.line, missing_column(row.where, missing, list(row.fields))
            continue
        words, tags = (row.fields[name] for name in own if name is not None)
        for name, value in ((word_column, words), (tag_column, tags)):
            if not isinstance(value, list):
                found = "null" if value is None else f"{type(value).__name__} {str(value)[:40]}"
                yield row.line, DataError(f"{row.where}: {name!r} is {found}, not a list; mend or remove the row")
                break
        else:
            yield row.line, _checked(row.where, words, tags)


def _checked(where: str, words: list[Any], tags: list[Any]) -> Sentence | DataError:
    if len(words) != len(tags):
        return DataError(f"{where}: {len(words)} words but {len(tags)} tags; give each word one tag, or remove the row")
    for place, (word, tag) in enumerate(zip(words, tags, strict=True), 1):
        if not isinstance(word, str):
            return DataError(f"{where}: word {place} is {word!r}, not text; mend or remove the row")
        if not word.isascii() and any("\ud800" <= c <= "\udfff" for c in word):
            return DataError(f"{where}: word {place} holds half a surrogate pair; mend or remove the row")
        if is_missing(tag) or (isinstance(tag, str) and not tag.strip()):
            return DataError(f"{where}: word {place}, {word!r}, has no tag; give it one, or remove the row")
        if isinstance(tag, int) and tag < 0:
            return DataError(f"{where}: the tag of word {place}, {word!r}, is {tag}, which marks none; give it one")
        if isinstance(tag, list | dict | bytes):
            return DataError(f"{where}: the tag of word {place}, {word!r}, is {tag!r}, neither a name nor a number")
    return words, tags


def _read_columns(path: Path, encoding: str) -> Iterator[tuple[int, Sentence | DataError]]:
    """(line where the sentence starts, the sentence or what is wrong with it)."""
    words: list[str] = []
    tags: list[str] = []
    start, wrong = 0, None

    def ended() -> Iterator[tuple[int, Sentence | DataError]]:
        if wrong is not None or words:
            yield start, wrong or (list(words), list(tags))

    first = True
    for number, line, problem in text_lines(path, encoding):
        text = without_end(line).rstrip(" \t")
        if not text.strip(" \t") or text.startswith(DOCUMENT):
            yield from ended()
            words, tags, wrong = [], [], None
            continue
        begins = not words and wrong is None
        if problem is None and begins and COMMENT.match(text):
            continue
        fields = [f.strip(" ") for f in text.split("\t")] if "\t" in text else re.split(r" +", text.strip(" "))
        if first and fields[0].lower() in HEADS[0] and fields[-1].lower() in HEADS[1]:
            first = False
            continue
        first = False
        start = number if begins else start
        if problem is None and (len(fields) < 2 or not fields[0]):
            problem = DataError(
                f"{path}:{number}: {text[:40]!r} is not a word and its tag with a tab or blanks between; mend the "
                "line, or put a blank line where the sentence ends"
            )
        wrong = wrong or problem
        words.append(fields[0])
        tags.append(fields[-1])
    yield from ended()
