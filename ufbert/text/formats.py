"""One reader for each file format of `files`: bytes to rows, with the place of everything that is wrong.

Every reader yields a `Row`, or a `DataError` in the place of a bad row, which the caller raises or reports.
What makes the whole file unusable is raised.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ufbert.errors import DataError

from .byte_streams import STDIN, display_name, not_decoded, text_lines, without_end
from .rows import Row, find_column, is_missing, missing_column

__all__ = ["read_blocks", "read_lines", "read_parquet"]

# A block of text lines longer than this becomes several documents, so that one long file without blank
# lines neither fills the memory nor stands as a single document.
DOCUMENT_CHARACTERS = 20_000
PARQUET_BATCH_ROWS = 256


def _only_text(path: Path, needed: list[str]) -> None:
    for column in needed:
        if column != "text":
            raise missing_column(display_name(path), column, ["text"])


def read_lines(path: Path, needed: list[str], encoding: str = "utf-8") -> Iterator[Row | DataError]:
    """Every line a row `{"text": line}`, blank ones too."""
    _only_text(path, needed)
    for number, line, problem in text_lines(path, encoding):
        yield problem or Row(path, number, {"text": without_end(line)})


def read_blocks(path: Path, needed: list[str], encoding: str = "utf-8") -> Iterator[Row | DataError]:
    """Blocks of lines between blank lines; a long block is cut at a line end."""
    _only_text(path, needed)
    block: list[str] = []
    start = length = 0
    for number, line, problem in text_lines(path, encoding):
        if problem is not None:
            yield problem
            continue
        text = without_end(line)
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
            found = {name: find_column(name, names) for name in dict.fromkeys([*needed, *(wanted or ())])}
            if missing := next((name for name, own in found.items() if own is None), None):
                raise missing_column(str(path), missing, names)
            columns = None if wanted is None else [str(found[name]) for name in wanted]
            asked = {own: name for name, own in found.items()}
            empty = _EmptyRows(file, [name for name in names if columns is not None and name not in columns])
            for batch in file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=columns):
                batch = batch.rename_columns([asked.get(name, name) for name in batch.schema.names])
                for row in _batch_rows(path, number, batch):
                    if isinstance(row, DataError) or not _is_empty(row, empty):
                        yield row
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
                byte = error.object[error.start]
                yield not_decoded(path, number + index + 1, byte, error.start, "utf-8", "write the file again")
            else:
                yield Row(path, number + index + 1, fields)
        return
    for index, values in enumerate(zip(*columns, strict=True), 1):
        yield Row(path, number + index, dict(zip(names, values, strict=True)))


class _EmptyRows:
    """Which rows of a parquet file are null in its other columns, read only where it matters."""

    def __init__(self, file: Any, columns: list[str]) -> None:
        self.file, self.columns = file, columns
        self.start = self.end = 0
        """Rows of the group that `mask` is of."""
        self.mask: Any = None
        self.group = -1

    def __contains__(self, row: int) -> bool:
        """Whether `row`, from 0, is; rows are asked for in rising order."""
        if not self.columns:
            return True
        import pyarrow as pa
        import pyarrow.compute as pc

        while row >= self.end:
            self.group += 1
            self.mask = None
            self.start, self.end = self.end, self.end + self.file.metadata.row_group(self.group).num_rows
        if self.mask is None:
            parts = []
            for batch in self.file.iter_batches(PARQUET_BATCH_ROWS, [self.group], self.columns):
                mask = pa.array([True] * batch.num_rows)
                for column in batch.columns:
                    mask = pc.and_(mask, pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)))
                parts.append(mask.to_numpy(zero_copy_only=False))
            self.mask = [bool(empty) for part in parts for empty in part]
        return bool(self.mask[row - self.start])


def _is_empty(row: Row, others: _EmptyRows) -> bool:
    """Whether a row is null in all columns, as spreadsheets leave them at their end."""
    if len(row.fields) + len(others.columns) < 2 or not all(map(is_missing, row.fields.values())):
        return False
    return row.line - 1 in others
