"""The file that results go to: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from ufbert.errors import ConfigError, OutputError
from ufbert.system.atomic import check_new, explain_failure, write_file

from .arrow_writers import ParquetWriter
from .writers import CsvWriter, JsonLinesWriter, NpyWriter, ResultWriter

__all__ = ["RESULT_FORMATS", "check_result_path", "open_results"]

RESULT_FORMATS: dict[str, type[ResultWriter]] = {
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
