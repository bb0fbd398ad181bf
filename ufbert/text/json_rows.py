"""Rows out of JSON: an object a line, one array of objects, or one object that holds them.

{"text": ...}                    an object a line, the usual jsonl
[{"text": ...}, ...]             an array, read item by item
{"data": [{"text": ...}, ...]}   one object with one list of objects in it
{"text": [...], "label": [...]}  one object with a list, or an object by row name, for each column (as of pandas)
"""

from __future__ import annotations

import codecs
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ufbert.errors import DataError

from .byte_streams import ENCODING_ADVICE, STDIN, Line, display_name, open_bytes, text_lines
from .rows import Row, find_column, is_missing, named_fields

__all__ = ["read_json"]

READ_BYTES = 1 << 18
# A single object, and each item of an array, is held in memory.
MOST_CHARACTERS = 1 << 28
# An error so close to the end of what was read may be due to that end.
DOUBTFUL_CHARACTERS = 16


def read_json(
    path: Path, wanted: list[str] | None, needed: list[str], encoding: str = "utf-8"
) -> Iterator[Row | DataError]:
    """The objects of a file. Blank lines, and objects whose values are all null, are no rows."""
    again = path != STDIN and path.is_file()
    if again:
        # Not by its first line, which may be the whole of a large file.
        begun: list[Line] = []
        begins = next((c for c in (_trimmed(chunk) for chunk in _chunks(path, encoding, "replace")) if c), "")
        lines = text_lines(path, encoding)
    else:
        lines = text_lines(path, encoding)
        begun = list(_to_first_text(lines))
        begins = _trimmed(begun[-1][1]) if begun else ""
    if begins.startswith("["):
        chunks = _chunks(path, encoding) if again else _checked(itertools.chain(begun, lines))
        yield from _rows(path, enumerate(_array_items(path, chunks), 1), wanted, needed)
        return
    if begins.startswith("{"):
        begun = begun or list(_to_first_text(lines))
        values, read = _whole_file(path, begun[-1], lines, needed)
        begun += read
        if values is not None:
            yield from _rows(path, enumerate(values, 1), wanted, needed)
            return
    yield from _line_rows(path, itertools.chain(begun, lines), wanted, needed)


def _trimmed(text: str) -> str:
    return text.lstrip("\ufeff \t\r\n")


def _checked(lines: Iterable[Line]) -> Iterator[str]:
    for _, line, problem in lines:
        if problem is not None:
            raise problem
        yield line


def _to_first_text(lines: Iterator[Line]) -> Iterator[Line]:
    for line in lines:
        yield line
        if _trimmed(line[1]):
            return


def _line_rows(
    path: Path, lines: Iterator[Line], wanted: list[str] | None, needed: list[str]
) -> Iterator[Row | DataError]:
    for number, line, problem in lines:
        # Files that were written one after the other into one have a byte order mark each.
        text = line.lstrip("\ufeff")
        if problem is not None:
            yield problem
        elif text.strip():
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else error
                where = f"{display_name(path)}:{number}"
                yield DataError(f"{where}: not valid JSON ({reason}); write one JSON object a line")
            else:
                yield from _rows(path, [(number, value)], wanted, needed, "write one JSON object a line")


def _rows(
    path: Path,
    values: Any,
    wanted: list[str] | None,
    needed: list[str],
    advice: str = "each entry of the array must be one",
) -> Iterator[Row | DataError]:
    """The rows of (number, value)."""
    for number, value in values:
        where = f"{display_name(path)}:{number}"
        if not isinstance(value, dict):
            yield DataError(f"{where}: a JSON {type(value).__name__}, not an object; {advice}")
        elif len(value) == 1 or not all(map(is_missing, value.values())):
            fields = named_fields(where, value, wanted, needed)
            yield fields if isinstance(fields, DataError) else Row(path, number, fields)


def _whole_file(
    path: Path, first: Line, lines: Iterator[Line], needed: Sequence[str]
) -> tuple[list[Any] | None, list[Line]]:
    """The rows of a file that is one object, or objects over several lines each; and the lines read to see it.

    None where it has an object a line.
    """
    text, read = first[1].lstrip("\ufeff"), []
    try:
        value = json.loads(text)
    except RecursionError:
        return None, []
    except json.JSONDecodeError as error:
        ends_early = error.pos + DOUBTFUL_CHARACTERS >= len(text.rstrip()) or "Unterminated" in error.msg
        if not ends_early or path.suffix.lower() in (".jsonl", ".ndjson"):
            return None, []  # a broken line rather than an object over several
    else:
        read = list(_to_first_text(lines))
        alone = isinstance(value, dict) and not (read and _trimmed(read[-1][1]))
        return (_rows_within(path, value, needed) if alone else None), read
    size = len(text)
    for line in lines:
        read.append(line)
        size += len(line[1])
        if size > MOST_CHARACTERS:
            raise _too_large(path)
        # Where lines are objects of their own, the first of them is broken.
        if len(read) == 1 and line[1].startswith("{") and line[1].rstrip().endswith("}"):
            return None, read
    values = _concatenated(path, text + "".join(_checked(read)))
    return (_rows_within(path, values[0], needed) if len(values) == 1 else values), read


def _concatenated(path: Path, text: str) -> list[Any]:
    """JSON values one after the other, over any number of lines. Raises `DataError` where they are malformed."""
    decode, values, at = json.JSONDecoder().raw_decode, [], 0
    while at < len(text):
        try:
            value, at = decode(text, at)
        except (ValueError, RecursionError) as error:
            reason = str(error)
            if isinstance(error, json.JSONDecodeError):
                reason = f"{error.msg} in line {error.lineno:,}"
            advice = "write one object a line, or one array"
            raise DataError(f"{display_name(path)}: not valid JSON ({reason}); {advice}") from error
        values.append(value)
        while text[at : at + 1] in tuple(" \t\r\n"):
            at += 1
    return values


def _rows_within(path: Path, whole: Any, needed: Sequence[str]) -> list[Any]:
    """The rows that a single object holds, or is itself."""
    if not isinstance(whole, dict):
        return [whole]
    columns = [whole[own] for name in needed if (own := find_column(name, whole)) is not None]
    complete = bool(needed) and len(columns) == len(needed)
    if complete:
        kind, size = type(columns[0]), len(columns[0]) if isinstance(columns[0], dict | list) else -1
        alike = {name: c for name, c in whole.items() if isinstance(c, kind) and size >= 0 and len(c) == size}
        keys: list[Any] = list(columns[0]) if kind is dict else list(range(size))
        if all(any(column is c for c in alike.values()) for column in columns):
            return [
                {name: column.get(key) if kind is dict else column[key] for name, column in alike.items()}
                for key in keys
            ]
        return [whole]
    lists = {name: v for name, v in whole.items() if isinstance(v, list) and v and isinstance(v[0], dict)}
    if len(lists) > 1:
        raise DataError(
            f"{display_name(path)}: one object with several lists of objects ({', '.join(lists)}); give one in a file"
        )
    return next(iter(lists.values()), [whole])


def _chunks(path: Path, encoding: str, errors: str = "strict") -> Iterator[str]:
    """The text of a file piece by piece."""
    decoder = codecs.getincrementaldecoder(encoding)(errors)
    done = 0
    with open_bytes(path) as stream:
        while True:
            data = stream.read(READ_BYTES)
            pending = len(decoder.getstate()[0])
            try:
                yield decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{display_name(path)}: byte {done - pending + error.start + 1:,} of the file is not "
                    f"{encoding.upper()}; {ENCODING_ADVICE}"
                ) from error
            if not data:
                return
            done += len(data)


def _array_items(path: Path, chunks: Iterator[str]) -> Iterator[Any]:
    """The items of an array, or of several one after the other. Raises `DataError` where it is malformed or cut."""
    text = _Text(path, chunks)
    while text.next_character() == "[":
        text.at += 1
        if text.next_character() == "]":
            text.at += 1
            continue
        while True:
            text.next_character()
            yield text.value()
            mark = text.next_character()
            text.at += 1
            if mark == "]":
                break
            if mark != ",":
                raise text.malformed("it ends within the array" if not mark else "no comma between two entries")
    if text.next_character():
        raise text.malformed("there is more after the end of the array")


class _Text:
    """Text of which only the part that is being decoded is held."""

    def __init__(self, path: Path, chunks: Iterator[str]) -> None:
        self.path, self.chunks = path, chunks
        self.text, self.at = "", 0
        self.ended = False
        self.lines = 0
        """Line ends in the text before `text`."""
        self.decode = json.JSONDecoder().raw_decode

    def more(self) -> bool:
        """Read on, at least as much again as is held; whether there was anything."""
        self.lines += self.text.count("\n", 0, self.at)
        rest = self.text[self.at :]
        if len(rest) > MOST_CHARACTERS:
            raise _too_large(self.path)
        parts, size = [rest], 0
        while size <= len(rest) and not self.ended:
            chunk = next(self.chunks, None)
            self.ended = chunk is None
            parts.append(chunk or "")
            size += len(chunk or "")
        self.text, self.at = "".join(parts), 0
        return size > 0

    def next_character(self) -> str:
        """The next one that is no blank; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in " \t\r\n\ufeff":
                self.at += 1
            if self.at < len(self.text) or (self.ended or not self.more()):
                return self.text[self.at : self.at + 1]

    def value(self) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = self.decode(self.text, self.at)
            except json.JSONDecodeError as error:
                far = error.pos - self.at
                doubtful = error.pos + DOUBTFUL_CHARACTERS >= len(self.text) or "Unterminated" in error.msg
                if doubtful and not self.ended and self.more():
                    continue
                self.at += far
                raise self.malformed(error.msg if self.at < len(self.text) else "it ends within the array") from error
            except (ValueError, RecursionError) as error:
                raise self.malformed(str(error)) from error
            length = end - self.at
            # A number may go on.
            if end == len(self.text) and not self.ended and self.more():
                continue
            self.at += length
            return value

    def malformed(self, reason: str) -> DataError:
        """The error for what stands here."""
        line = self.lines + self.text.count("\n", 0, self.at) + 1
        return DataError(f"{display_name(self.path)}: not valid JSON ({reason} in line {line:,}); write the file again")


def _too_large(path: Path) -> DataError:
    return DataError(
        f"{display_name(path)}: a single JSON value of more than {MOST_CHARACTERS >> 20} million characters; "
        "write one object a line, or an array of smaller ones"
    )
