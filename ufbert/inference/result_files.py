"""Result rows into jsonl, csv, parquet and npy files, block after block, whole or not at all.

A row is a dict of plain values, nested ones (lists, dicts with string keys), and float32 vectors.
"""

from __future__ import annotations

import abc
import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..atomic import check_new, explain_failure, write_file
from ..errors import ConfigError, DataError, OutputError

__all__ = ["RESULT_FORMATS", "ResultWriter", "check_result_path", "open_results"]

Record = dict[str, Any]


class ResultWriter(abc.ABC):
    """Takes blocks of records that all have the same keys."""

    @abc.abstractmethod
    def write(self, records: Sequence[Record]) -> None:
        """Append the records."""

    def finish(self) -> None:  # noqa: B027  (most have nothing to complete)
        """Complete the file; called only when everything went well."""

    def abandon(self) -> None:  # noqa: B027
        """Let go of the file, which is about to be removed."""


class JsonLinesWriter(ResultWriter):
    """One JSON object a line, in UTF-8. Vectors have 9 significant digits, which is all that float32 holds."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    def write(self, records: Sequence[Record]) -> None:
        """The block in one go, so that a reader of a pipe gets whole lines."""
        lines = [self._line(record) for record in records]
        if lines:
            self.stream.write(b"".join(lines))
            self.stream.flush()

    @staticmethod
    def _line(record: Record) -> bytes:
        vectors = {k: v for k, v in record.items() if isinstance(v, np.ndarray)}
        plain = {k: v for k, v in record.items() if k not in vectors} if vectors else record
        text = json.dumps(plain, ensure_ascii=False, default=str)
        # One % over the whole vector takes a third of the time of json on a list of its numbers.
        for key, vector in vectors.items():
            numbers = ", ".join(["%.9g"] * len(vector)) % tuple(vector.tolist())
            text = f"{text[:-1]}{', ' if len(text) > 2 else ''}{json.dumps(key)}: [{numbers}]}}"
        return (text + "\n").encode("utf-8", "backslashreplace")


class CsvWriter(ResultWriter):
    """RFC 4180 with a header row. A dict or a vector becomes a column for each entry, a list JSON text."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.header: list[str] | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Append the rows, after the header if they are the first."""
        if not records:
            return
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        for record in records:
            cells = _flat(record)
            if self.header is None:
                self.header = list(cells)
                writer.writerow(self.header)
            writer.writerow(cells.values())
        self.stream.write(text.getvalue().encode("utf-8", "backslashreplace"))


def _flat(record: Record) -> Record:
    cells: Record = {}
    for key, value in record.items():
        if isinstance(value, dict):
            cells |= {f"{key}_{name}": entry for name, entry in value.items()}
        elif isinstance(value, np.ndarray):
            cells |= {f"{key}_{i}": f"{entry:.9g}" for i, entry in enumerate(value.tolist())}
        elif isinstance(value, list):
            cells[key] = json.dumps(value, ensure_ascii=False, default=str)
        else:
            cells[key] = value
    return cells


class ParquetWriter(ResultWriter):
    """A row group a block, compressed with zstd. A vector becomes a fixed-size list of float32.

    The first block fixes the column types; a column without any value in it holds strings. Raises
    `DataError` for a later value of another type.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.writer: Any = None

    def write(self, records: Sequence[Record]) -> None:
        """Append the records as one row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not records:
            return
        if self.writer is None:
            schema = pa.schema([(key, _arrow_type(key, records)) for key in records[0]])
            self.writer = pq.ParquetWriter(self.stream, schema, compression="zstd")
        schema = self.writer.schema
        arrays = [_arrow_array([r[field.name] for r in records], field) for field in schema]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

    def finish(self) -> None:
        """Write the footer."""
        if self.writer is not None:
            self.writer.close()

    def abandon(self) -> None:
        """Close while the stream is still open; otherwise pyarrow would at some later time, and complain."""
        if self.writer is not None:
            with contextlib.suppress(OSError):
                self.writer.close()
            self.writer.is_open = False


def _arrow_type(key: str, records: Sequence[Record]) -> Any:
    import pyarrow as pa

    first = records[0][key]
    if isinstance(first, np.ndarray):
        return pa.list_(pa.float32(), len(first))
    try:
        found = pa.array([r[key] for r in records]).type
    except (pa.ArrowException, OverflowError) as error:
        raise _mixed(key, error) from error
    return pa.string() if pa.types.is_null(found) else found


def _arrow_array(values: list[Any], field: Any) -> Any:
    import pyarrow as pa

    if isinstance(values[0], np.ndarray):
        return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(values)), type=field.type)
    try:
        return pa.array(values, type=field.type)
    except (pa.ArrowException, OverflowError) as error:
        raise _mixed(field.name, error) from error


def _mixed(key: str, error: Exception) -> DataError:
    reason = str(error).splitlines()[0]
    return DataError(
        f"column {key!r} has values of several types, which parquet cannot hold ({reason}); write .jsonl instead"
    )


class NpyWriter(ResultWriter):
    """The vectors alone, as one float32 array (rows, H) that `numpy.load(mmap_mode="r")` can map."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.rows = self.width = 0

    def write(self, records: Sequence[Record]) -> None:
        """Append the rows behind a header that is corrected at the end."""
        if not records:
            return
        vectors = [v for r in records for v in r.values() if isinstance(v, np.ndarray)]
        block = np.stack(vectors).astype("<f4", copy=False)
        if not self.width:
            self.width = block.shape[1]
            self._write_header()
        self.rows += len(block)
        self.stream.write(block.data)

    def finish(self) -> None:
        """Put the number of rows into the header, which NumPy pads so that any number fits."""
        end = self.stream.tell()
        self.stream.seek(0)
        self._write_header()
        self.stream.seek(end)

    def _write_header(self) -> None:
        shape = (self.rows, self.width)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)


RESULT_FORMATS: dict[str, type[JsonLinesWriter | CsvWriter | ParquetWriter | NpyWriter]] = {
    ".jsonl": JsonLinesWriter,
    ".csv": CsvWriter,
    ".parquet": ParquetWriter,
    ".npy": NpyWriter,
}


def check_result_path(path: Path, *, overwrite: bool = False) -> None:
    """Raise before any work is done if results cannot go there: `ConfigError` or `OutputError`."""
    if path.suffix.lower() not in RESULT_FORMATS:
        raise ConfigError(f"--output {path}: unknown kind of file; supported are {' '.join(RESULT_FORMATS)}")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; give a file name as --output")
    if path.exists() and not overwrite:
        raise OutputError(f"{path}: already exists; choose another --output, or replace it with --overwrite")
    if not path.exists():
        check_new(path, "results", "--output")
    elif not os.access(path.absolute().parent, os.W_OK | os.X_OK):
        raise OutputError(f"{path}: no permission to write into its folder; choose another --output")


@contextlib.contextmanager
def open_results(path: Path | None, *, overwrite: bool = False) -> Iterator[ResultWriter]:
    """A writer by the file's suffix, or of JSON lines to standard output for None.

    The file gets its name only when the block ends without an error; until then, and after an error or
    Ctrl-C, nothing of that name is made or touched. Raises `OutputError`.
    """
    if path is None:
        try:
            yield JsonLinesWriter(sys.stdout.buffer)
        except BrokenPipeError:
            raise  # the reader has gone, which is no error
        except OSError as error:
            explain_failure(error, Path("standard output"))
        return
    check_result_path(path, overwrite=overwrite)
    with write_file(path, replace=overwrite) as temporary, temporary.open("wb") as stream:
        writer = RESULT_FORMATS[path.suffix.lower()](stream)
        try:
            yield writer
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
