"""A row of a file with its place, and how its columns are found by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ufbert.errors import DataError

from .byte_streams import display_name

__all__ = ["Row", "cleaned_name", "find_column", "is_missing", "missing_column", "named_fields"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file; a line of a text file is `{"text": line}`."""

    path: Path
    line: int
    """Line in the file where the row starts, from 1; in parquet and in a JSON array the row's number, from 1."""
    fields: dict[str, Any]

    @property
    def where(self) -> str:
        """`file:line`, for messages."""
        return f"{display_name(self.path)}:{self.line}"


def cleaned_name(name: str) -> str:
    """A column's name without the blanks and byte order marks around it."""
    return name.strip().strip("\ufeff").strip()


def find_column(name: str, known: Iterable[str]) -> str | None:
    """What a file calls the column `name`: that, or else the same but for blanks around it; None if it has none."""
    known = list(known)
    if name in known:
        return name
    return next((other for other in known if cleaned_name(str(other)) == cleaned_name(name)), None)


def missing_column(where: str, column: str, known: Sequence[str]) -> DataError:
    """The error for a column that a file or row lacks."""
    return DataError(f"{where}: no column {column!r}; it has: {', '.join(map(str, known)) or 'none'}")


def is_missing(value: Any) -> bool:
    """Whether a value is null or NaN, which tables have for it."""
    return value is None or (isinstance(value, float) and value != value)


def named_fields(
    where: str, fields: dict[str, Any], wanted: Sequence[str] | None, needed: Sequence[str]
) -> dict[str, Any] | DataError:
    """The wanted of a row's fields (None: all of them), under the names that were asked for."""
    found = {name: find_column(name, fields) for name in needed}
    for name, own in found.items():
        if own is None:
            return missing_column(where, name, list(fields))
    if wanted is None:
        return {**fields, **{name: fields[own] for name, own in found.items() if own is not None and own != name}}
    return {name: fields[found[name] or name] for name in wanted}
