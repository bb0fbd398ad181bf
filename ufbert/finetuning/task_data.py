"""The rows of a finetuning run: texts with class numbers or values, to train and to validate on."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .labelled_rows import LabelledRows, class_numbers, label_values
from .several_labels import label_matrix
from .tasks import Measure

__all__ = ["RowSet", "Split", "TaskData", "TrainingData", "build_task_data"]


@dataclass(frozen=True)
class RowSet(abc.ABC):
    """Rows to train or validate on."""

    name: str
    """`train`, `validation`, `validation_matched`, ..."""
    source: str
    """The files or the hub data set they come from."""

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @abc.abstractmethod
    def take(self, rows: npt.NDArray[np.int64], name: str | None = None) -> Any:
        """The rows of these numbers, in this order."""


@dataclass(frozen=True)
class TrainingData:
    """What a finetuning run reads, whatever its rows are."""

    name: str
    """`glue/rte`, or the training file's name."""
    label_names: tuple[str, ...] | None
    """Classes or tags in the order of their numbers; None for regression."""
    measure: Measure
    train: RowSet
    validation: tuple[RowSet, ...]
    notes: tuple[str, ...] = ()
    """What the reader of the figures must know, a sentence each."""


@dataclass(frozen=True)
class Split(RowSet):
    """Texts with labels."""

    texts: list[str]
    pairs: list[str] | None
    """Second texts."""
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    """Class numbers or values, (rows,); with several labels a row (rows, classes) of 0 and 1."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: npt.NDArray[np.int64], name: str | None = None) -> Split:
        """The rows of these numbers, in this order."""
        pairs = None if self.pairs is None else [self.pairs[i] for i in rows]
        return Split(name or self.name, self.source, [self.texts[i] for i in rows], pairs, self.labels[rows])


@dataclass(frozen=True)
class TaskData(TrainingData):
    """Texts to classify, or to give values."""

    train: Split
    validation: tuple[Split, ...]
    multi_label: bool = False
    """Whether a row has any number of labels."""

    @property
    def regression(self) -> bool:
        """Whether labels are values."""
        return self.label_names is None

    @property
    def problem_type(self) -> str:
        """Hugging Face's word for it."""
        if self.regression:
            return "regression"
        return "multi_label_classification" if self.multi_label else "single_label_classification"


def build_task_data(
    name: str,
    names: tuple[str, ...] | None,
    measure: Measure,
    train: LabelledRows,
    validation: dict[str, LabelledRows],
    *,
    numbered: bool,
    notes: Sequence[str] = (),
    multi_label: bool = False,
) -> TaskData:
    """Turn raw labels into class numbers or, without class `names`, into values; `multi_label` ones into 0 and 1."""
    splits = []
    for split, rows in {"train": train, **validation}.items():
        labels: npt.NDArray[np.int64] | npt.NDArray[np.float64]
        if names is None:
            labels = label_values(rows)
        elif multi_label:
            labels = label_matrix(rows, names)
        else:
            labels = class_numbers(rows, names, numbered=numbered)
        splits.append(Split(split, rows.source, rows.texts, rows.pairs or None, labels))
    return TaskData(name, names, measure, splits[0], tuple(splits[1:]), tuple(notes), multi_label)
