"""Rows with any number of labels: lists in jsonl and parquet, fields with a separator in csv and tsv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ufbert.errors import DataError

from .labelled_rows import LabelledRows, ordered_names
from .raw_labels import name_of, shown_label, whole_number

__all__ = ["holds_lists", "infer_label_names", "label_matrix", "split_labels"]


def holds_lists(rows: LabelledRows) -> bool:
    """Whether any row's label is a list."""
    return any(isinstance(label, list) for label in rows.labels)


def split_labels(rows: LabelledRows, separator: str) -> None:
    """Make lists of the labels that are text, at the separator; empty parts are none."""
    for row, label in enumerate(rows.labels):
        if not isinstance(label, list):
            rows.labels[row] = [part.strip() for part in str(label).split(separator) if part.strip()]


def infer_label_names(rows: LabelledRows) -> tuple[str, ...]:
    """All labels that occur, in order, or those of the file's metadata. Raises `DataError` for a row without a list."""
    names = {name for row in range(len(rows)) for name in _names(rows, row)}
    if rows.class_names:
        return rows.class_names
    if not names:
        raise DataError(f"{rows.source}: no row has any label")
    return ordered_names(names)


def label_matrix(rows: LabelledRows, names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Which labels each row has, (rows, labels) of 0 and 1. Raises `DataError` at the first unknown one.

    A label is a name, or the number of one in the file's own list.
    """
    index = {name: i for i, name in enumerate(names)}
    own = rows.class_names or ()
    matrix = np.zeros((len(rows), len(names)), dtype=np.int64)
    for row in range(len(rows)):
        for name in _names(rows, row):
            number = whole_number(name)
            known = own[number] if name not in index and number is not None and 0 <= number < len(own) else name
            if known not in index:
                listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
                raise DataError(
                    f"{rows.where(row)}: label {shown_label(name)} is not among the training labels ({listed}); "
                    "mend or remove the row"
                )
            matrix[row, index[known]] = 1
    return matrix


def _names(rows: LabelledRows, row: int) -> list[str]:
    """The names in a row's list."""
    label: Any = rows.labels[row]
    if not isinstance(label, list):
        raise DataError(
            f"{rows.where(row)}: label {shown_label(label)} is no list, but other rows have lists; "
            "give each row a list of its labels, [] for none"
        )
    for entry in label:
        if entry is None or isinstance(entry, float | dict | list | bytes):
            raise DataError(
                f"{rows.where(row)}: {shown_label(label)} is no list of labels; name those that the row has, "
                'such as ["cat", "dog"] or their numbers'
            )
    return [name_of(entry) for entry in label]
