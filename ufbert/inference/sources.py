"""The rows of input files as examples: which columns are read, carried along, and skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ufbert.errors import ConfigError, DataError
from ufbert.text.bad_rows import BadRows
from ufbert.text.batching import Example
from ufbert.text.byte_streams import COMPRESSIONS
from ufbert.text.files import STDIN, Row, file_format, read_rows

from .request import InferenceRequest

__all__ = ["InputRows", "check_input_format", "estimate_rows"]

STDIN_FORMATS = ("txt", "jsonl", "csv", "tsv")
SAMPLED_BYTES = 1 << 22


@dataclass
class InputRows:
    """The rows of `paths`, with the columns that a request names."""

    paths: list[Path]
    request: InferenceRequest

    def examples(self, bad_rows: BadRows | None) -> Iterator[Example]:
        """The rows of all files in order."""
        for path in self.paths:
            yield from self._of_file(path, bad_rows)

    @property
    def read_once(self) -> Path | None:
        """The first of the paths that cannot be read a second time: standard input or a pipe."""
        return next((path for path in self.paths if not path.is_file()), None)

    def check(self) -> None:
        """Read a first row of every file, so that a wrong column or an empty file fails before the work.

        Of JSON lines as much is read as it takes to meet every carried key, for a key may be absent from any row.
        Raises `DataError` for a key that no row has, unless it may still come out of what can be read only once.
        """
        unseen = list(self.request.id_columns)
        first: Row | None = None
        for path in self.paths:
            if not path.is_file():  # standard input and pipes can be read only once
                continue
            row = next(self._rows(path, BadRows(silent=True) if self.request.skip_bad else None), None)
            if row is None:
                continue
            first = first or row
            unseen = [name for name in unseen if name not in row.fields]
            rest = self._rows(path, BadRows(silent=True)) if unseen else ()
            for later in rest:
                unseen = [name for name in unseen if name not in later.fields]
                if not unseen:
                    break
        if unseen and first is not None and self.read_once is None:
            known = ", ".join(first.fields)
            raise DataError(f"{first.where}: no column {unseen[0]!r} in this row nor in any other; it has: {known}")

    def _of_file(self, path: Path, bad_rows: BadRows | None) -> Iterator[Example]:
        column = self._text_column(path)
        names = self.request.kept_names
        for row in self._rows(path, bad_rows):
            carried = {name: row.fields.get(name) for name in self.request.id_columns}
            text = row.fields[column]
            pair_column = self.request.pair_column
            pair = None if pair_column is None else row.fields[pair_column]
            carried.update(zip(names, (text, pair), strict=False))
            yield Example(text, pair, row.where, carried)

    def _rows(self, path: Path, bad_rows: BadRows | None) -> Iterator[Row]:
        texts = [self._text_column(path), self.request.pair_column]
        return read_rows(
            path,
            # JSON objects come whole, so that one without a carried key is no error.
            columns=None if self._format(path) == "jsonl" else self.request.id_columns,
            text_columns=[name for name in texts if name is not None],
            on_bad=bad_rows,
            format=self._format(path) if path == STDIN else None,
            reading=self.request.reading,
        )

    def _format(self, path: Path) -> str:
        return self.request.reading.format(path, self.request.input_format)

    def _text_column(self, path: Path) -> str:
        # Lines of a txt file have no column names; theirs is `text`, whatever the other files call it.
        return "text" if self._format(path) == "txt" else self.request.settings.text_column


def check_input_format(input_format: str | None, paths: Sequence[Path]) -> None:
    """Raise `ConfigError` for a format of standard input that is unknown, or where that is not read."""
    if input_format is None:
        return
    if input_format not in STDIN_FORMATS:
        raise ConfigError(f"unknown --input-format {input_format!r}; known: {', '.join(STDIN_FORMATS)}")
    if STDIN not in paths:
        raise ConfigError("--input-format is for standard input (-); a file's suffix says its format")


def estimate_rows(paths: Sequence[Path]) -> int | None:
    """About how many rows the files have: parquet says it, of a text file the beginning is counted.

    None if that cannot be known without reading everything: standard input, pipes, compressed files, JSON arrays.
    """
    rows = 0.0
    for path in paths:
        kind = file_format(path)
        if kind is None or path.suffix.lower() in COMPRESSIONS:
            return None
        if kind == "parquet":
            import pyarrow.parquet as pq

            rows += pq.read_metadata(path).num_rows
            continue
        with path.open("rb") as stream:
            sample = stream.read(SAMPLED_BYTES)
        if kind == "jsonl" and (sample.lstrip()[:1] == b"[" or sample.count(b"\n") < 2):
            return None  # an array, or one object
        lines = sample.count(b"\n") + (not sample.endswith(b"\n"))
        rows += lines * max(path.stat().st_size / max(len(sample), 1), 1.0)
    return round(rows)
