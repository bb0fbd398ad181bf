"""Rows of csv and tsv files as they come: with any separator, with or without a header row, with blanks around names.

A `.tsv` file follows the media type's definition and GLUE's use: no quoting, a tab always separates two fields;
unless it is written as csv is, which its quoted header or a `--delimiter` says.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from ufbert.errors import DataError

from .byte_streams import Line, display_name, text_lines, without_end
from .reading import DELIMITERS, Reading, separator_name
from .rows import Row, cleaned_name, missing_column, named_fields

__all__ = ["read_table"]

SAMPLED_LINES = 50


def read_table(
    path: Path,
    kind: str,
    wanted: list[str] | None,
    needed: list[str],
    header: Sequence[str] | None,
    reading: Reading,
) -> Iterator[Row | DataError]:
    """The rows of a table; blank lines and rows of empty fields alone are none.

    `header` names the columns of a file that is known to have no header row.
    """
    # The module's limit on a field is global and 128 KiB; a document is often longer.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    has_header = header is None and reading.header
    lines = text_lines(path, reading.encoding)
    sample = list(itertools.islice(lines, SAMPLED_LINES))
    dialect = _dialect(sample, kind, needed, has_header, reading.delimiter, header is not None)
    names = None if header is None else list(header)
    separator = separator_name(dialect.delimiter)
    for number, row, problem in _table_rows(itertools.chain(sample, lines), dialect):
        where = f"{display_name(path)}:{number}"
        if problem is not None:
            if isinstance(problem, csv.Error):
                problem = DataError(f"{where}: malformed csv row ({problem}); check its quotes")
            elif names is None:
                raise problem
            yield problem
            continue
        if max(len(row), len(names or ())) > 1 and not any(map(str.strip, row)):
            continue
        if names is None:
            names = [cleaned_name(n) for n in row] if has_header else [str(n + 1) for n in range(len(row))]
            if doubled := next((n for n in names if n and names.count(n) > 1), None):
                raise DataError(f"{where}: two columns are named {doubled!r}; rename one in the header row")
            _check_columns(where, needed, names, has_header)
            if has_header:
                continue
        if len(row) != len(names):
            # What has no name and no content is a separator too many at the ends of lines.
            surplus = row[len(names) :] + names[len(row) :]
            if any(map(str.strip, surplus)):
                fields = f"{len(row)} {separator}-separated fields"
                yield DataError(f"{where}: {fields}, but the file has {len(names)} columns; mend the row")
                continue
        values = {name: value for name, value in zip(names, row, strict=False) if name or len(names) == 1}
        named = named_fields(where, values, wanted, needed)
        yield named if isinstance(named, DataError) else Row(path, number, named)


def _check_columns(where: str, needed: Sequence[str], names: Sequence[str], has_header: bool) -> None:
    missing = next((c for c in needed if cleaned_name(c) not in names), None)
    if missing is None:
        return
    if not has_header:
        raise DataError(
            f"{where}: no column {missing!r}; without a header the columns are 1 to {len(names)}; give such a number, "
            "as in --text-column 1"
        )
    error = missing_column(where, missing, names)
    if len(names) == 1:
        raise DataError(f"{error}; if its fields are separated by something else, give --delimiter")
    if any(name.replace(".", "", 1).isdecimal() for name in names):
        raise DataError(f"{error}; if that is a row already, give --no-header")
    raise error


class _Dialect(csv.Dialect):
    """How fields are written."""

    delimiter = ","
    quotechar = '"'
    doublequote = True
    skipinitialspace = False
    lineterminator = "\n"
    quoting = csv.QUOTE_MINIMAL
    strict = True
    quoted = True
    """Whether quotes mean anything."""

    def __init__(self, delimiter: str, *, quoted: bool = True, skipinitialspace: bool = False) -> None:
        self.delimiter, self.quoted, self.skipinitialspace = delimiter, quoted, skipinitialspace
        super().__init__()


def _dialect(
    sample: Sequence[Line], kind: str, needed: Sequence[str], has_header: bool, given: str, named: bool
) -> _Dialect:
    usual = DELIMITERS["tab"] if kind == "tsv" else DELIMITERS["comma"]
    delimiter = given or (usual if named else _found_delimiter(sample, usual, needed, has_header))
    first = next(iter(_sampled_rows(sample, delimiter)), [])
    beginning = next((text for _, text, _ in sample if text.strip()), "")
    all_quoted = has_header and beginning.startswith('"') and len(first) > 1 and _all_quoted(beginning, delimiter)
    return _Dialect(
        delimiter,
        quoted=kind == "csv" or bool(given) or delimiter != usual or all_quoted,
        # `id, text`: the blank belongs to the separator, before a quote too.
        skipinitialspace=has_header and len(first) > 1 and all(name.startswith(" ") for name in first[1:]),
    )


def _all_quoted(line: str, delimiter: str) -> bool:
    fields = without_end(line).split(delimiter)
    return all(len(field) > 1 and field[0] == field[-1] == '"' for field in fields)


def _found_delimiter(sample: Sequence[Line], usual: str, needed: Sequence[str], has_header: bool) -> str:
    """The separator whose columns are those that are needed, or else the usual one unless it separates nothing."""
    candidates = [usual, *(d for d in DELIMITERS.values() if d != usual)]
    rows = {delimiter: _sampled_rows(sample, delimiter) for delimiter in candidates}
    rows = {delimiter: found for delimiter, found in rows.items() if found}
    if has_header:
        names = {delimiter: list(map(cleaned_name, found[0])) for delimiter, found in rows.items()}
        for delimiter, known in names.items():
            if needed and all(cleaned_name(column) in known for column in needed):
                return delimiter
        return max(names, key=lambda delimiter: len(names[delimiter]), default=usual)
    least = max([2, *(int(column) for column in needed if column.isdecimal())])
    even = []
    for delimiter, found in rows.items():
        widths = {len(row) for row in found if any(map(str.strip, row))}
        if len(widths) == 1 and min(widths) >= least:
            even.append(delimiter)
    # What a blank always follows may be the punctuation of a text.
    tight = (d for d in even if not all(field.startswith(" ") for row in rows[d] for field in row[1:]))
    return next(tight, even[0] if even else usual)


def _sampled_rows(sample: Sequence[Line], delimiter: str) -> list[list[str]]:
    """The rows of the beginning, without the last one, which may be cut."""
    reader = csv.reader((text for _, text, _ in sample), delimiter=delimiter)
    rows: list[list[str]] = []
    with contextlib.suppress(csv.Error):  # an unquoted CR, say; the rows before it will do
        rows.extend(row for row in reader if row)
    return rows[:-1] if len(sample) == SAMPLED_LINES and len(rows) > 1 else rows


def _table_rows(
    lines: Iterator[Line], dialect: _Dialect
) -> Iterator[tuple[int, list[str], DataError | csv.Error | None]]:
    """(line where the row starts, its fields, what is wrong with it); blank lines are no rows."""
    if not dialect.quoted:
        for number, line, problem in lines:
            if text := without_end(line):
                yield number, text.split(dialect.delimiter), problem
        return
    problems: list[DataError] = []

    def texts() -> Iterator[str]:
        for _, line, problem in lines:
            if problem is not None:
                problems.append(problem)
            yield line

    reader = csv.reader(texts(), dialect)
    while True:
        start = reader.line_num + 1
        problems.clear()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, [], error
            continue
        if row:
            yield start, row, problems[0] if problems else None
