"""Rows of text out of files: txt, json, csv, tsv and parquet, the text ones also compressed.

    expand_paths(["data/*.jsonl", "more/"])  ->  the files, in a stable order
    read_rows(path)                          ->  Row after Row, each with its place in the file

Everything streams: no file is held in memory, but for one that is a single JSON object. Text is UTF-8 unless
`Reading` says otherwise; a byte order mark is accepted, and only `\\n` and `\\r\\n` end a line (U+2028 and its like
are ordinary characters of a text).
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ufbert.checkpoint.git_lfs import is_git_lfs_pointer
from ufbert.errors import DataError

from .byte_streams import STDIN, display_name
from .formats import read_blocks, read_lines, read_parquet
from .json_rows import read_json
from .reading import FORMATS, Reading, file_format
from .rows import Row
from .tables import read_table

__all__ = ["AS_USUAL", "STDIN", "Row", "expand_paths", "file_format", "read_rows", "read_texts"]

SUPPORTED = "supported are .txt .jsonl .ndjson .json .csv .tsv (each also .gz, .zst, .bz2 or .xz) and .parquet"
AS_USUAL = Reading()


def expand_paths(
    patterns: Sequence[str], kind: Callable[[Path], str | None] = file_format, supported: str = SUPPORTED
) -> list[Path]:
    """The files that paths, globs (`**` too) and folders (searched recursively) stand for.

    The order of `patterns` is kept; the matches of one are sorted; `-` stays as `STDIN`. Hidden files are
    left out of globs and folders. Raises `DataError` for what is missing, empty or of no supported format, which is
    one that `kind` gives a name to; `supported` says which those are.
    """
    paths: list[Path] = []
    for pattern in patterns:
        name = os.path.expanduser(pattern)  # noqa: PTH111  (Path would drop a trailing slash and `./`)
        path = Path(name)
        if pattern == "-":
            paths.append(STDIN)
        elif os.path.isfile(name):  # noqa: PTH113  (Path.is_file raises for a name that is too long)
            if kind(path) is None:
                raise DataError(f"{path}: unknown kind of file; {supported}")
            paths.append(path)
        elif os.path.isdir(name):  # noqa: PTH112
            paths += _supported(sorted(_walk(path)), kind, f"{path}: the folder holds no readable file; {supported}")
        elif glob.has_magic(name):
            matches = sorted(Path(m) for m in glob.glob(name, recursive=True))  # noqa: PTH207  (absolute too)
            if not matches:
                raise DataError(f"{pattern}: no file matches; check the pattern and the folder")
            files = [m for m in matches if m.is_file()]
            paths += _supported(files, kind, f"{pattern}: matches no readable file; {supported}")
        elif os.path.exists(name):  # noqa: PTH110  (a named pipe such as /dev/fd/63 has no suffix)
            paths.append(path)
        else:
            raise DataError(f"{pattern}: no such file or folder; check the path")
    return paths


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        yield from (Path(parent) / f for f in files if not f.startswith("."))


def _supported(paths: list[Path], kind: Callable[[Path], str | None], otherwise: str) -> list[Path]:
    found = [p for p in paths if kind(p) is not None]
    if not found:
        raise DataError(otherwise)
    return found


def read_texts(
    paths: Sequence[Path],
    text_column: str = "text",
    *,
    whole_documents: bool = False,
    on_bad: Callable[[DataError], None] | None = None,
    reading: Reading = AS_USUAL,
) -> Iterator[tuple[str, str]]:
    """(`file:line`, text) of every row of `paths`, as `read_rows` yields them.

    A txt file has no columns, so `text_column` does not concern it.
    """
    for path in paths:
        column = "text" if reading.format(path) == "txt" else text_column
        rows = read_rows(
            path,
            columns=[column],
            text_columns=[column],
            whole_documents=whole_documents,
            on_bad=on_bad,
            reading=reading,
        )
        for row in rows:
            yield row.where, row.fields[column]


def read_rows(
    path: Path,
    *,
    columns: Sequence[str] | None = None,
    text_columns: Sequence[str] = (),
    whole_documents: bool = False,
    on_bad: Callable[[DataError], None] | None = None,
    format: str | None = None,
    header: Sequence[str] | None = None,
    reading: Reading = AS_USUAL,
) -> Iterator[Row]:
    """The rows of one file, in order.

    `columns` are the fields to keep (None: all); `text_columns` are kept too and must be strings.
    `whole_documents` makes a text file's blocks between blank lines the rows; otherwise every line is one,
    blank ones included. `format` overrides the suffix, for standard input (read as txt lines otherwise).
    `header` names the columns of a csv or tsv file that is known to have no header row; `reading` is what the user says
    of the files. A column is also found under its name with blanks around it. Rows of a table that have no value in
    any column are none.

    A bad row raises `DataError` with `file:line`; given `on_bad`, it is reported there and skipped. A file
    that is missing, empty, damaged as a whole or without a wanted column always raises.
    """
    kind = format or reading.format(path)
    if kind not in FORMATS.values() or (format is None and file_format(path) is None and path.is_file()):
        raise DataError(f"{path}: unknown kind of file; {SUPPORTED}")
    if path != STDIN and path.is_file() and is_git_lfs_pointer(path):
        raise DataError(
            f"{path}: git has left a pointer here in place of the file; install git-lfs and run `git lfs pull` in "
            f"{path.parent}"
        )
    wanted = None if columns is None else list(dict.fromkeys([*columns, *text_columns]))
    needed = list(dict.fromkeys([*(columns or ()), *text_columns]))
    if kind == "parquet":
        rows = read_parquet(path, wanted, needed)
    elif kind == "txt" and whole_documents:
        rows = read_blocks(path, needed, reading.encoding)
    elif kind == "txt":
        rows = read_lines(path, needed, reading.encoding)
    elif kind == "jsonl":
        rows = read_json(path, wanted, needed, reading.encoding)
    else:
        rows = read_table(path, kind, wanted, needed, header, reading)
    empty = True
    for row in rows:
        empty = False
        problem = row if isinstance(row, DataError) else _check_texts(row, text_columns)
        if problem is None:
            assert isinstance(row, Row)
            yield row
        elif on_bad is None:
            raise problem
        else:
            on_bad(problem)
    if empty:
        raise DataError(f"{display_name(path)}: no rows in it; give a file with text")


def _check_texts(row: Row, text_columns: Sequence[str]) -> DataError | None:
    for column in text_columns:
        value = row.fields[column]
        if not isinstance(value, str):
            found = "null" if value is None else f"{type(value).__name__} {str(value)[:40]}"
            return DataError(f"{row.where}: {column!r} is {found}, not text; mend or remove the row")
        if not value.isascii() and (problem := _broken_text(value)):
            return DataError(f"{row.where}: {column!r} {problem}")
    return None


def _broken_text(text: str) -> str | None:
    """What is wrong with a string that UTF-8 cannot express: half a surrogate pair out of a JSON escape."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"holds half a surrogate pair at character {error.start + 1}; mend or remove the row"
    return None
