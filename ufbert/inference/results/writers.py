"""Result rows into jsonl, csv and npy files, block after block."""

from __future__ import annotations

import abc
import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ufbert.errors import ConfigError

from .json_text import json_text

__all__ = ["CsvWriter", "JsonLinesWriter", "NpyWriter", "Record", "ResultWriter"]


class Record(NamedTuple):
    """A row of a result file. The keys of both are columns, the same ones in all records."""

    carried: dict[str, Any]
    """Out of the input, of any kind that JSON or parquet has, which may change from row to row."""
    result: dict[str, Any]
    """The task's: plain values, lists, objects with the same keys in all records, and float32 vectors."""

    @property
    def columns(self) -> dict[str, Any]:
        """All of them."""
        return self.carried | self.result


class ResultWriter(abc.ABC):
    """Takes blocks of records and writes them to a stream that can seek."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    @abc.abstractmethod
    def write(self, records: Sequence[Record]) -> None:
        """Append the records."""

    def expect(self, sample: Mapping[str, Any]) -> None:  # noqa: B027
        """Told before the first record: values of results that show their types, where all of them may be empty."""

    def finish(self) -> None:  # noqa: B027  (most have nothing to complete)
        """Complete the file; called only when everything went well."""

    def abandon(self) -> None:  # noqa: B027
        """Let go of the file, which is about to be removed."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs, beside the file, to go on after the last block."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on at the end of the stream, which another writer wrote up to the `state` it gave."""


class JsonLinesWriter(ResultWriter):
    """One JSON object a line, in UTF-8; a carried NaN is null, for JSON has none.

    Vectors have 9 significant digits, which is all that float32 holds.
    """

    def write(self, records: Sequence[Record]) -> None:
        """The block in one go, so that a reader of a pipe gets whole lines."""
        lines = [self._line(record) for record in records]
        if lines:
            self.stream.write(b"".join(lines))
            self.stream.flush()

    @staticmethod
    def _line(record: Record) -> bytes:
        columns = record.columns
        vectors = {k: v for k, v in record.result.items() if isinstance(v, np.ndarray)}
        plain = {k: v for k, v in columns.items() if k not in vectors} if vectors else columns
        text = json_text(plain)
        # One % over the whole vector takes a third of the time of json on a list of its numbers.
        for key, vector in vectors.items():
            numbers = ", ".join(["%.9g"] * len(vector)) % tuple(vector.tolist())
            text = f"{text[:-1]}{', ' if len(text) > 2 else ''}{json.dumps(key)}: [{numbers}]}}"
        return (text + "\n").encode("utf-8", "backslashreplace")


class CsvWriter(ResultWriter):
    """RFC 4180 with a header row. A result's object or vector becomes a column for each entry, a list JSON text.

    A carried object stays in one column, as JSON text: the next one may have other keys, for which the header that
    is written already has no place. Raises `ConfigError` where two columns would have one name.
    """

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.header: list[str] | None = None

    def write(self, records: Sequence[Record]) -> None:
        """Append the rows, after the header if they are the first."""
        if not records:
            return
        text = io.StringIO(newline="")
        rows = [(_carried_cells(record.carried), _result_cells(record.result)) for record in records]
        first = self.header is None
        if self.header is None:
            carried, result = rows[0]
            if clash := next((name for name in carried if name in result), None):
                raise ConfigError(
                    f"column {clash!r} of the input would collide with the result's {clash!r}; rename it, "
                    "or write .jsonl or .parquet"
                )
            self.header = [*carried, *result]
        writer = csv.DictWriter(text, self.header, lineterminator="\n")
        if first:
            writer.writeheader()
        writer.writerows(carried | result for carried, result in rows)
        self.stream.write(text.getvalue().encode("utf-8", "backslashreplace"))

    def state(self) -> dict[str, Any]:
        """The header that is written."""
        return {"header": self.header}

    def restore(self, state: dict[str, Any]) -> None:
        """Write no second header."""
        self.header = state["header"]


def _carried_cells(values: dict[str, Any]) -> dict[str, Any]:
    return {key: json_text(v) if isinstance(v, dict | list | tuple) else v for key, v in values.items()}


def _result_cells(values: dict[str, Any]) -> dict[str, Any]:
    cells: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            cells |= {f"{key}_{name}": entry for name, entry in value.items()}
        elif isinstance(value, np.ndarray):
            cells |= {f"{key}_{i}": f"{entry:.9g}" for i, entry in enumerate(value.tolist())}
        elif isinstance(value, list):
            cells[key] = json_text(value)
        else:
            cells[key] = value
    return cells


class NpyWriter(ResultWriter):
    """The vectors alone, as one float32 array (rows, H) that `numpy.load(mmap_mode="r")` can map."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
        self.rows = self.width = 0

    def write(self, records: Sequence[Record]) -> None:
        """Append the rows behind a header that is corrected at the end."""
        if not records:
            return
        vectors = [v for r in records for v in r.result.values() if isinstance(v, np.ndarray)]
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

    def state(self) -> dict[str, Any]:
        """The shape so far."""
        return {"rows": self.rows, "width": self.width}

    def restore(self, state: dict[str, Any]) -> None:
        """Count on."""
        self.rows, self.width = state["rows"], state["width"]

    def _write_header(self) -> None:
        shape = (self.rows, self.width)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.stream, header)
