"""Texts with labels out of files: what a label is (a class or a value), class names, class numbers.

A label column of numbers holds values (regression) if any of them has a fraction, or if whole numbers are written with
a decimal point and are too many for classes; anything else holds classes: 0.0 and 1.0 are the classes 0 and 1, as
tables write them where a label is missing. Class names are those of the file's Hugging Face metadata, or else the
labels themselves: whole numbers in their order, other labels in alphabetical order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ufbert.errors import DataError
from ufbert.text.files import AS_USUAL, file_format, read_rows
from ufbert.text.reading import Reading
from ufbert.text.rows import find_column, is_missing

from .raw_labels import (
    NO_LABEL,
    PLAUSIBLE_CLASSES,
    are_whole,
    is_fractional,
    name_of,
    number_of,
    shown_label,
    whole_number,
)

__all__ = [
    "LabelledRows",
    "are_signs",
    "class_numbers",
    "holds_values",
    "infer_class_names",
    "label_values",
    "metadata_names",
    "ordered_names",
    "read_labelled",
    "refuse_negative",
]

SKIP = "or leave out such rows of your own files by --skip-unlabelled"


@dataclass
class LabelledRows:
    """Columns of texts and raw labels, with the place of every row."""

    source: str
    texts: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    """Second texts, or empty."""
    labels: list[Any] = field(default_factory=list)
    places: list[tuple[str, int]] = field(default_factory=list)
    """File and line of every row."""
    class_names: tuple[str, ...] | None = None
    """From the file's metadata."""
    skipped: int = 0
    """Rows without a label that were left out."""

    def where(self, row: int) -> str:
        """`file:line` of a row."""
        return "{}:{}".format(*self.places[row])

    def __len__(self) -> int:
        return len(self.texts)


def read_labelled(
    paths: Sequence[Path],
    text_columns: Sequence[str],
    label_column: str,
    *,
    header: Sequence[str] | None = None,
    on_bad: Callable[[DataError], None] | None = None,
    skip_unlabelled: bool = False,
    reading: Reading = AS_USUAL,
) -> LabelledRows:
    """All rows of files with one or two text columns and a label. Raises `DataError` with `file:line`.

    `header`, `on_bad` and `reading` are those of `read_rows`. With `skip_unlabelled`, rows whose label is missing
    (null, NaN, an empty field, one of `NO_LABEL`, a JSON row without the key) are counted and left out.
    """
    rows = LabelledRows(", ".join(path.name for path in paths))
    for path in paths:
        # A JSON row may lack the key; in a table a column that is missing is a mistake.
        columns = None if skip_unlabelled and file_format(path) == "jsonl" else [label_column]
        reader = read_rows(
            path, columns=columns, text_columns=text_columns, header=header, on_bad=on_bad, reading=reading
        )
        for row in reader:
            label = row.fields.get(find_column(label_column, row.fields) or label_column)
            if is_missing(label) or (isinstance(label, str) and label.strip() in NO_LABEL):
                if skip_unlabelled:
                    rows.skipped += 1
                    continue
                found = "empty" if label is None or not str(label).strip() else f"{label}, which stands for none"
                raise DataError(f"{row.where}: {label_column!r} is {found}; give the row a label or remove it, {SKIP}")
            rows.texts.append(row.fields[text_columns[0]])
            if len(text_columns) == 2:
                rows.pairs.append(row.fields[text_columns[1]])
            rows.labels.append(label)
            rows.places.append((str(path), row.line))
        names = metadata_names(path, label_column)
        if rows.class_names not in (None, names) and names is not None:
            raise DataError(f"{path}: its classes {names} are not those of {paths[0]}, {rows.class_names}")
        rows.class_names = names or rows.class_names
    if not rows.texts:
        raise DataError(f"{rows.source}: none of its {rows.skipped:,} rows has a label in {label_column!r}")
    return rows


def metadata_names(path: Path, column: str) -> tuple[str, ...] | None:
    """Class names that Hugging Face's `datasets` left in a parquet file's schema, if any."""
    if file_format(path) != "parquet":
        return None
    import pyarrow.parquet as pq

    metadata = pq.read_schema(path).metadata or {}
    try:
        feature = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"][column]
        return tuple(map(str, feature.get("feature", feature)["names"])) or None  # the feature of a list's entries
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def refuse_negative(rows: LabelledRows, *, skip: bool) -> LabelledRows:
    """The rows without those whose class number is below 0, Hugging Face's sign of a row without a label.

    Unless they are to be skipped, the first one raises `DataError` with `file:line`; where the file's own metadata
    number its classes from 0, a negative one can mean nothing else and is always skipped. -1 and 1 are two classes
    where every row has one of them (`are_signs`), for which the caller does not ask.
    """
    kept = []
    for row, label in enumerate(rows.labels):
        entries = label if isinstance(label, list) else [label]
        if any((number := whole_number(name_of(entry))) is not None and number < 0 for entry in entries):
            if not skip and not rows.class_names:
                raise DataError(
                    f"{rows.where(row)}: label {shown_label(label)} is negative, which marks a row without a label; "
                    f"give it one or remove it, {SKIP}; a class of its own needs a name, such as 'negative'"
                )
        else:
            kept.append(row)
    if len(kept) == len(rows):
        return rows
    if not kept:
        raise DataError(
            f"{rows.source}: none of its {len(rows) + rows.skipped:,} rows has a label that is not negative"
        )
    return LabelledRows(
        rows.source,
        [rows.texts[i] for i in kept],
        [rows.pairs[i] for i in kept] if rows.pairs else [],
        [rows.labels[i] for i in kept],
        [rows.places[i] for i in kept],
        rows.class_names,
        rows.skipped + len(rows) - len(kept),
    )


def are_signs(splits: Iterable[LabelledRows]) -> bool:
    """Whether the labels are -1 and 1, both of them and nothing else: two classes, not a mark of missing labels."""
    numbers = {
        None if isinstance(label, list) else whole_number(name_of(label)) for rows in splits for label in rows.labels
    }
    return numbers == {-1, 1}


def holds_values(rows: LabelledRows) -> bool:
    """Whether the labels are values: numbers written with a decimal point, unless those are few and all whole.

    A few labels that are no numbers do not turn a column of values into thousands of classes; they are
    errors then.
    """
    if rows.class_names:
        return False
    fractional = [label for label in rows.labels if is_fractional(label)]
    if are_whole(fractional):
        return False
    numeric = len(fractional) > 0 and all(number_of(v) is not None for v in rows.labels)
    return len(fractional) > len(rows) / 2 or numeric


def label_values(rows: LabelledRows) -> npt.NDArray[np.float64]:
    """The labels as numbers (rows,). Raises `DataError` at the first that is none."""
    values = np.empty(len(rows))
    for row, label in enumerate(rows.labels):
        number = number_of(label)
        if number is None or not math.isfinite(number):
            raise DataError(
                f"{rows.where(row)}: label {shown_label(label)} is not a finite number, as regression needs; "
                "mend the row, or give --classification"
            )
        values[row] = number
    return values


def infer_class_names(rows: LabelledRows) -> tuple[str, ...]:
    """The names of all classes, in order. Raises `DataError` if these labels cannot be classes."""
    if rows.class_names:
        return rows.class_names
    for row, label in enumerate(rows.labels):
        if isinstance(label, dict | list | bytes):
            raise DataError(f"{rows.where(row)}: label {shown_label(label)} is neither text nor a number")
        if isinstance(label, float) and not math.isfinite(label):
            raise DataError(f"{rows.where(row)}: the label is {label}; give the row a label or remove it")
    distinct = {name_of(label) for label in rows.labels}
    if len(distinct) > max(PLAUSIBLE_CLASSES, len(rows) / 2):
        raise DataError(
            f"{rows.source}: {len(distinct):,} different labels in {len(rows):,} rows, such as "
            f"{shown_label(min(distinct))}; give the --label-column of classes, or --regression for values"
        )
    return ordered_names(distinct)


def ordered_names(names: Iterable[str]) -> tuple[str, ...]:
    """Classes in their order: whole numbers by value, others by the alphabet."""
    distinct = set(names)
    if all(whole_number(name) is not None for name in distinct):
        return tuple(sorted(distinct, key=lambda name: (int(name), name)))
    return tuple(sorted(distinct))


def class_numbers(rows: LabelledRows, names: Sequence[str], *, numbered: bool) -> npt.NDArray[np.int64]:
    """The labels as positions in `names` (rows,). Raises `DataError` at the first of no such class.

    A label is a name, or, with `numbered`, the number of a class in the file's own list or else in `names`.
    """
    index = {name: i for i, name in enumerate(names)}
    own = rows.class_names or tuple(names)
    classes = np.empty(len(rows), dtype=np.int64)
    for row, label in enumerate(rows.labels):
        name = name_of(label)
        if name not in index and numbered and (number := whole_number(name)) is not None and 0 <= number < len(own):
            name = own[number]
        if name not in index:
            known = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
            raise DataError(
                f"{rows.where(row)}: label {shown_label(label)} is not among the training classes ({known}); "
                "mend or remove the row"
            )
        classes[row] = index[name]
    return classes
