"""Result rows into jsonl, csv and npy files, block after block.

A row is a dict of plain values, nested ones (lists, dicts with string keys), and float32 vectors.
"""

from __future__ import annotations

import abc
import csv
import io
import json
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

__all__ = ["CsvWriter", "JsonLinesWriter", "NpyWriter", "Record", "ResultWriter"]

Record = dict[str, Any]


class ResultWriter(abc.ABC):
    """Takes blocks of records that all have the same keys, and writes them to a stream that can seek."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream

    @abc.abstractmethod
    def write(self, records: Sequence[Record]) -> None:
        """Append the records."""

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
    """One JSON object a line, in UTF-8. Vectors have 9 significant digits, which is all that float32 holds."""

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
        super().__init__(stream)
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

    def state(self) -> dict[str, Any]:
        """The header that is written."""
        return {"header": self.header}

    def restore(self, state: dict[str, Any]) -> None:
        """Write no second header."""
        self.header = state["header"]


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


class NpyWriter(ResultWriter):
    """The vectors alone, as one float32 array (rows, H) that `numpy.load(mmap_mode="r")` can map."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(stream)
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
