"""One reader for each file format of `files`: bytes to rows, with the place of everything that is wrong.

Every reader yields a `Row`, or a `DataError` in the place of a bad row, which the caller raises or reports.
What makes the whole file unusable is raised.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from ufbert.errors import DataError

__all__ = [
    "STDIN",
    "Row",
    "display_name",
    "read_blocks",
    "read_jsonl",
    "read_lines",
    "read_parquet",
    "read_table",
]

STDIN = Path("-")

# A block of text lines longer than this becomes several documents, so that one long file without blank
# lines neither fills the memory nor stands as a single document.
DOCUMENT_CHARACTERS = 20_000
PARQUET_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file; a line of a text file is `{"text": line}`."""

    path: Path
    line: int
    """Line in the file where the row starts, from 1; in a parquet file the row's number, from 1."""
    fields: dict[str, Any]

    @property
    def where(self) -> str:
        """`file:line`, for messages."""
        return f"{display_name(self.path)}:{self.line}"


def display_name(path: Path) -> str:
    """What messages call the file."""
    return "standard input" if path == STDIN else str(path)


def _open(path: Path) -> AbstractContextManager[BinaryIO]:
    if path == STDIN:
        return nullcontext(sys.stdin.buffer)  # not ours to close
    suffix = path.suffix.lower()
    if suffix == ".zst":
        import pyarrow as pa

        # Not zstandard's own reader: that one ends a truncated file without an error.
        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd")))
    return cast(BinaryIO, gzip.open(path)) if suffix == ".gz" else path.open("rb")


def _raw_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(line number, bytes with their line end), the byte order mark removed."""
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: damaged gzip data ({error}); fetch the file again") from error
    except OSError as error:
        if path.suffix.lower() == ".zst" and error.errno is None:
            raise DataError(f"{path}:{number + 1}: damaged zstd data ({error}); fetch the file again") from error
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise DataError(f"{display_name(path)}: cannot be read: {reason}") from error


def _decode(path: Path, number: int, line: bytes) -> str | DataError:
    """The text of a line without its end."""
    try:
        return line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        return _not_utf8(path, number, line[error.start], error.start)


def _not_utf8(path: Path, number: int, byte: int, position: int) -> DataError:
    return DataError(
        f"{display_name(path)}:{number}: byte 0x{byte:02x} at position {position + 1} is not UTF-8; "
        "save the file as UTF-8 or mend the line"
    )


def _missing(where: str, column: str, known: Sequence[str]) -> DataError:
    return DataError(f"{where}: no column {column!r}; it has: {', '.join(map(str, known)) or 'none'}")


def _only_text(path: Path, needed: list[str]) -> None:
    for column in needed:
        if column != "text":
            raise _missing(display_name(path), column, ["text"])


def read_lines(path: Path, needed: list[str]) -> Iterator[Row | DataError]:
    """Every line a row `{"text": line}`, blank ones too."""
    _only_text(path, needed)
    for number, line in _raw_lines(path):
        text = _decode(path, number, line)
        yield text if isinstance(text, DataError) else Row(path, number, {"text": text})


def read_blocks(path: Path, needed: list[str]) -> Iterator[Row | DataError]:
    """Blocks of lines between blank lines; a long block is cut at a line end."""
    _only_text(path, needed)
    block: list[str] = []
    start = length = 0
    for number, line in _raw_lines(path):
        text = _decode(path, number, line)
        if isinstance(text, DataError):
            yield text
            continue
        blank = not text.strip()
        if block and (blank or length > DOCUMENT_CHARACTERS):
            yield Row(path, start, {"text": "\n".join(block)})
            block, length = [], 0
        if not blank:
            start = start if block else number
            block.append(text)
            length += len(text)
    if block:
        yield Row(path, start, {"text": "\n".join(block)})


def read_jsonl(path: Path, wanted: list[str] | None, needed: list[str]) -> Iterator[Row | DataError]:
    """One JSON object a line; blank lines are no rows."""
    for number, line in _raw_lines(path):
        text = _decode(path, number, line)
        if isinstance(text, DataError):
            yield text
            continue
        if not text.strip():
            continue
        where = f"{display_name(path)}:{number}"
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            reason = error.msg if isinstance(error, json.JSONDecodeError) else error
            yield DataError(f"{where}: not valid JSON ({reason}); write one JSON object a line")
            continue
        if not isinstance(fields, dict):
            yield DataError(f"{where}: a JSON {type(fields).__name__}, not an object; write one JSON object a line")
        elif missing := next((c for c in needed if c not in fields), None):
            yield _missing(where, missing, list(fields))
        else:
            yield Row(path, number, fields if wanted is None else {c: fields[c] for c in wanted})


def read_table(
    path: Path, kind: str, wanted: list[str] | None, needed: list[str], header: Sequence[str] | None
) -> Iterator[Row | DataError]:
    """Rows of a csv or tsv file. Bytes that are no UTF-8 pass the csv parser as surrogates, so that a broken
    field spoils its own row and not the row structure."""
    separator = "comma" if kind == "csv" else "tab"
    names = None if header is None else list(header)
    for number, row in _table_rows(path, kind):
        where = f"{display_name(path)}:{number}"
        if isinstance(row, csv.Error):
            yield DataError(f"{where}: malformed csv row ({row}); check its quotes")
            continue
        broken = next((c for v in row if not v.isascii() for c in v if "\udc80" <= c <= "\udcff"), None)
        if broken is not None:
            column = next(i for i, v in enumerate(row) if broken in v) + 1
            bad = DataError(
                f"{where}: byte 0x{ord(broken) - 0xDC00:02x} in field {column} is not UTF-8; "
                "save the file as UTF-8 or mend the line"
            )
            if names is None:
                raise bad
            yield bad
            continue
        if names is None:
            names = row
            if doubled := next((n for n in names if names.count(n) > 1), None):
                raise DataError(f"{where}: two columns are named {doubled!r}; rename one in the header row")
            if missing := next((c for c in needed if c not in names), None):
                raise _missing(where, missing, names)
            continue
        if len(row) != len(names):
            yield DataError(
                f"{where}: {len(row)} {separator}-separated fields, but the file has {len(names)} columns; mend the row"
            )
            continue
        fields = dict(zip(names, row, strict=True))
        yield Row(path, number, fields if wanted is None else {c: fields[c] for c in wanted})


def _table_rows(path: Path, kind: str) -> Iterator[tuple[int, list[str] | csv.Error]]:
    """(line where the row starts, its fields); blank lines are no rows."""
    lines = ((n, line.decode(errors="surrogateescape")) for n, line in _raw_lines(path))
    if kind == "tsv":
        for number, line in lines:
            if text := line.removesuffix("\n").removesuffix("\r"):
                yield number, text.split("\t")
        return
    # The module's limit on a field is global and 128 KiB; a document is often longer.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    reader = csv.reader((line for _, line in lines), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, error
            continue
        if row:
            yield start, row


def read_parquet(path: Path, wanted: list[str] | None, needed: list[str]) -> Iterator[Row | DataError]:
    """Rows of a parquet file, by batches and without the columns that are not wanted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path == STDIN:
        raise DataError("standard input: parquet needs a file, because it is read from its end; give its path")
    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
            names = file.schema_arrow.names
            if missing := next((c for c in needed if c not in names), None):
                raise _missing(str(path), missing, names)
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=wanted):
                yield from _batch_rows(path, number, batch)
                number += batch.num_rows
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not a readable parquet file ({reason}); fetch or write it again") from error
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise DataError(f"{path}: cannot be read: {reason}") from error


def _batch_rows(path: Path, number: int, batch: Any) -> Iterator[Row | DataError]:
    """Rows of a pyarrow RecordBatch that follows row `number` of the file."""
    names = batch.schema.names
    try:
        columns = [column.to_pylist() for column in batch.columns]
    except UnicodeDecodeError:
        # Some string of the batch is no UTF-8; go row by row to find which.
        for index in range(batch.num_rows):
            try:
                fields = {n: c[index].as_py() for n, c in zip(names, batch.columns, strict=True)}
            except UnicodeDecodeError as error:
                yield _not_utf8(path, number + index + 1, error.object[error.start], error.start)
            else:
                yield Row(path, number + index + 1, fields)
        return
    for index, values in enumerate(zip(*columns, strict=True), 1):
        yield Row(path, number + index, dict(zip(names, values, strict=True)))
