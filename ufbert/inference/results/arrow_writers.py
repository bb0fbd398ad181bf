"""Result rows as Arrow tables: into a parquet file, or into a file of blocks that can be cut off and continued."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ufbert.errors import DataError

from .writers import Record, ResultWriter

__all__ = ["ArrowWriter", "ParquetWriter", "blocks_to_parquet"]


class ParquetWriter(ResultWriter):
    """A row group a block, compressed with zstd. A vector becomes a fixed-size list of float32.

    The first block fixes the column types; a column without any value in it holds strings. Raises
    `DataError` for a later value of another type.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.writer: Any = None

    def write(self, records: Sequence[Record]) -> None:
        """Append the records as one row group."""
        if records:
            self.write_table(_table(records, None if self.writer is None else self.writer.schema))

    def write_table(self, table: Any) -> None:
        """Append a pyarrow Table as one row group."""
        import pyarrow.parquet as pq

        if self.writer is None:
            self.writer = pq.ParquetWriter(self.stream, table.schema, compression="zstd")
        self.writer.write_table(table)

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


class ArrowWriter(ResultWriter):
    """Every block an Arrow IPC stream of its own, so that the file is whole up to the end of each.

    A parquet file is readable only with its footer, which nobody writes when a process is killed.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.schema: Any = None

    def restore(self, state: dict[str, Any]) -> None:
        """Take the column types of the blocks that are there."""
        self.schema = next((table.schema for table in _blocks(self.stream)), None)
        self.stream.seek(0, os.SEEK_END)

    def write(self, records: Sequence[Record]) -> None:
        """Append the records as one block."""
        import pyarrow as pa

        if not records:
            return
        table = _table(records, self.schema)
        self.schema = table.schema
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        self.stream.write(buffer.getvalue())


def blocks_to_parquet(blocks: BinaryIO, destination: Path) -> None:
    """Write what `ArrowWriter` wrote as a parquet file with the same blocks, one in memory at a time."""
    with destination.open("wb") as stream:
        writer = ParquetWriter(stream)
        try:
            for table in _blocks(blocks):
                writer.write_table(table)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise


def _blocks(stream: BinaryIO) -> Iterator[Any]:
    import pyarrow as pa

    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    while stream.tell() < end:
        with pa.ipc.open_stream(stream) as reader:
            yield reader.read_all()


def _table(records: Sequence[Record], schema: Any) -> Any:
    """A pyarrow Table of `schema`, or of the types that are found in the records.

    A column without any value in it holds strings. Raises `DataError` for a value of another type.
    """
    import pyarrow as pa

    if schema is None:
        schema = pa.schema([(key, _arrow_type(key, records)) for key in records[0]])
    arrays = [_arrow_array([r[field.name] for r in records], field) for field in schema]
    return pa.Table.from_arrays(arrays, schema=schema)


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
