"""Result rows as Arrow tables: into a file of blocks that can be cut off and continued, and from it into parquet."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from .column_types import Kinds, arrow_array
from .writers import Record, ResultWriter

__all__ = ["ArrowWriter", "ParquetWriter"]

# Of a block's column whose values no Arrow type holds as they are; they are JSON.
AS_JSON = {"values": "json"}


class ArrowWriter(ResultWriter):
    """Every block an Arrow IPC stream of its own, so that the file is whole up to the end of each.

    A parquet file is readable only with its footer, which nobody writes when a process is killed; and its first
    row group fixes the types of all, which only the last row may tell. So a block has the types of its own values,
    and `write_parquet` those that hold the values of all blocks (`column_types`).
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.columns: dict[str, Kinds] = {}
        self.sample: Mapping[str, Any] = {}

    def expect(self, sample: Mapping[str, Any]) -> None:
        """Count the values of `sample` among those of their columns."""
        self.sample = sample

    def state(self) -> dict[str, Any]:
        """What the columns have held so far."""
        return {"columns": {name: kinds.to_json() for name, kinds in self.columns.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Remember what the columns have held."""
        self.columns = {name: Kinds.from_json(kinds) for name, kinds in state["columns"].items()}

    def write(self, records: Sequence[Record]) -> None:
        """Append the records as one block."""
        import pyarrow as pa

        if not records:
            return
        rows = [record.columns for record in records]
        fields, arrays = [], []
        for name in rows[0]:
            field, array = self._column(name, [row[name] for row in rows])
            fields.append(field)
            arrays.append(array)
        table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
        self.stream.write(buffer.getvalue())

    def _column(self, name: str, values: list[Any]) -> tuple[Any, Any]:
        """A block's field and array, which give back the values as they are."""
        import pyarrow as pa

        kinds = Kinds()
        kinds.add(values)
        uniform = kinds.uniform(missing_keys=kinds.beyond_json)
        if not uniform and kinds.beyond_json:
            kinds.names.add("text")  # JSON keeps no more of them
        if name not in self.columns:
            self.columns[name] = Kinds()
            self.columns[name].add([self.sample[name]] if name in self.sample else [])
        self.columns[name].merge(kinds)
        if uniform:
            return pa.field(name, kinds.arrow_type()), arrow_array(values, kinds.arrow_type(), uniform=True)
        lines = [None if value is None else json.dumps(value, default=str) for value in values]
        return pa.field(name, pa.string(), metadata=AS_JSON), pa.array(lines, type=pa.string())

    def write_parquet(self, destination: BinaryIO) -> None:
        """Write everything as a parquet file, a row group a block, compressed with zstd, one in memory at a time."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema([(name, kinds.arrow_type()) for name, kinds in self.columns.items()])
        writer = pq.ParquetWriter(destination, schema, compression="zstd")
        try:
            for table in _blocks(self.stream):
                arrays = [_with_type(table, field) for field in schema]
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            writer.close()
        except BaseException:
            # While the file is still open; otherwise pyarrow would at some later time, and complain.
            with contextlib.suppress(OSError):
                writer.close()
            writer.is_open = False
            raise


class ParquetWriter(ResultWriter):
    """Keeps the blocks of an `ArrowWriter` in a nameless file beside the result until the last one is there."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.blocks = tempfile.TemporaryFile(dir=Path(stream.name).parent)  # noqa: SIM115  (closed by the two ends)
        self.writer = ArrowWriter(self.blocks)

    def expect(self, sample: Mapping[str, Any]) -> None:
        """See `ArrowWriter`."""
        self.writer.expect(sample)

    def write(self, records: Sequence[Record]) -> None:
        """Append the records as one row group."""
        self.writer.write(records)

    def finish(self) -> None:
        """Write the file."""
        self.writer.write_parquet(self.stream)
        self.blocks.close()

    def abandon(self) -> None:
        """Let the blocks go."""
        with contextlib.suppress(OSError):  # a full disk, once more
            self.blocks.close()


def _blocks(stream: BinaryIO) -> Iterator[Any]:
    import pyarrow as pa

    end = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    while stream.tell() < end:
        with pa.ipc.open_stream(stream) as reader:
            yield reader.read_all()


def _with_type(table: Any, field: Any) -> Any:
    """The column of a block as the field's type."""
    column, own = table[field.name], table.schema.field(field.name)
    as_json = bool(own.metadata)
    if not as_json and own.type == field.type:
        return column
    values = column.to_pylist()
    if as_json:
        values = [None if value is None else json.loads(value) for value in values]
    return arrow_array(values, field.type)
