"""From the user's words to the rows to finetune on: a GLUE task or files of labelled texts.

DataRequest(train="reviews.csv", label_column="stars")  --load_task_data-->  TaskData
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ufbert.errors import ConfigError, DataError
from ufbert.text.files import expand_paths

from .labelled_rows import LabelledRows, class_numbers, holds_values, infer_class_names, label_values, read_labelled
from .tasks import CLASSIFICATION, REGRESSION, Measure, glue_task

__all__ = ["DataRequest", "Split", "TaskData", "load_task_data"]

VALIDATION_FRACTION = 0.1


@dataclass(frozen=True, kw_only=True)
class DataRequest:
    """What to finetune on: a GLUE `task`, or `train` with its columns. Raises `ConfigError` for a bad mix."""

    task: str | None = None
    """`glue/NAME`."""
    data: Path | None = None
    """Folder of the GLUE task's files, or its parent; None fetches them from the hub."""
    train: str | None = None
    """File, glob or folder of csv, tsv, jsonl or parquet."""
    validation: str | None = None
    """The same; None holds out `validation_fraction` of the training rows."""
    validation_fraction: float | None = None
    """Share of the training rows to hold out; None takes 0.1."""
    text_column: str | None = None
    """None takes `text`."""
    pair_column: str | None = None
    """Column of the second text."""
    label_column: str | None = None
    """None takes `label`."""
    regression: bool | None = None
    """Whether labels are values; None decides by the labels."""
    max_train_rows: int | None = None
    """Train on a random sample of so many rows."""
    max_validation_rows: int | None = None
    """Validate on a random sample of so many rows (of each validation set)."""

    def __post_init__(self) -> None:
        if (self.task is None) == (self.train is None):
            raise ConfigError("give either --task glue/NAME or --train FILE to say what to finetune on")
        if self.task is not None:
            glue_task(self.task)
            for name in (
                "validation",
                "validation_fraction",
                "text_column",
                "pair_column",
                "label_column",
                "regression",
            ):
                if getattr(self, name) is not None:
                    option = "--" + name.replace("_", "-")
                    raise ConfigError(f"{option} goes with --train; a GLUE task has its own files and columns")
            return
        if self.data is not None:
            raise ConfigError("--data goes with --task; give your own files by --train and --validation")
        if self.validation is not None and self.validation_fraction is not None:
            raise ConfigError("give --validation or --validation-fraction, not both")
        if self.validation_fraction is not None and not 0.0 < self.validation_fraction < 1.0:
            raise ConfigError(f"--validation-fraction must lie between 0 and 1, not {self.validation_fraction}")
        if repeated := [c for c in self.columns if self.columns.count(c) > 1]:
            raise ConfigError(f"column {repeated[0]!r} cannot be two of text, second text and label at once")

    @property
    def texts(self) -> tuple[str, ...]:
        """The one or two text columns."""
        return (self.text_column or "text", *([self.pair_column] if self.pair_column else []))

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that are read."""
        return (*self.texts, self.label_column or "label")

    @property
    def name(self) -> str:
        """What the task is called: the GLUE task's name or the training file's."""
        if self.task is not None:
            return glue_task(self.task).name
        assert self.train is not None
        return Path(self.train).name.split(".")[0].strip("*?[]") or "files"


@dataclass(frozen=True)
class Split:
    """Rows to train or validate on."""

    name: str
    """`train`, `validation`, `validation_matched`, ..."""
    source: str
    """The files or the hub data set they come from."""
    texts: list[str]
    pairs: list[str] | None
    """Second texts."""
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float64]
    """Class numbers or values, (rows,)."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: npt.NDArray[np.int64], name: str | None = None) -> Split:
        """The rows of these numbers, in this order."""
        pairs = None if self.pairs is None else [self.pairs[i] for i in rows]
        return Split(name or self.name, self.source, [self.texts[i] for i in rows], pairs, self.labels[rows])


@dataclass(frozen=True)
class TaskData:
    """Everything a finetuning run reads."""

    name: str
    """`glue/rte`, or the training file's name."""
    label_names: tuple[str, ...] | None
    """Classes in the order of their numbers; None for regression."""
    measure: Measure
    train: Split
    validation: tuple[Split, ...]
    notes: tuple[str, ...] = ()
    """What the reader of the figures must know, a sentence each."""

    @property
    def regression(self) -> bool:
        """Whether labels are values."""
        return self.label_names is None


def load_task_data(request: DataRequest, seed: int = 0) -> TaskData:
    """Read what `request` asks for; `seed` draws the samples and the rows held out.

    Raises `DataError` with `file:line` for rows that do not fit, and for data with nothing to learn.
    """
    if request.task is not None:
        from .glue_data import load_glue

        data = load_glue(glue_task(request.task), request.data)
    else:
        data = _load_files(request, seed)
    return _sampled(data, request, seed)


def _load_files(request: DataRequest, seed: int) -> TaskData:
    assert request.train is not None
    *texts, label = request.columns
    train = read_labelled(expand_paths([request.train]), texts, label)
    held_out = None
    if request.validation is not None:
        held_out = read_labelled(expand_paths([request.validation]), texts, label)
    notes = []
    if (regression := request.regression) is None and (regression := holds_values(train)):
        notes.append("labels are numbers with a decimal point: regression (--classification makes them classes)")
    names = None if regression else infer_class_names(train)
    data = build_task_data(
        request.name,
        names,
        REGRESSION if regression else CLASSIFICATION,
        train,
        {} if held_out is None else {"validation": held_out},
        numbered=train.class_names is not None,
        notes=notes,
    )
    if held_out is None:
        fraction = request.validation_fraction or VALIDATION_FRACTION
        data = _hold_out(data, fraction, seed)
    return data


def build_task_data(
    name: str,
    names: tuple[str, ...] | None,
    measure: Measure,
    train: LabelledRows,
    validation: dict[str, LabelledRows],
    *,
    numbered: bool,
    notes: Sequence[str] = (),
) -> TaskData:
    """Turn raw labels into class numbers or, without class `names`, into values."""
    splits = []
    for split, rows in {"train": train, **validation}.items():
        labels = label_values(rows) if names is None else class_numbers(rows, names, numbered=numbered)
        splits.append(Split(split, rows.source, rows.texts, rows.pairs or None, labels))
    return TaskData(name, names, measure, splits[0], tuple(splits[1:]), tuple(notes))


def _hold_out(data: TaskData, fraction: float, seed: int) -> TaskData:
    rows = len(data.train)
    count = max(1, round(fraction * rows))
    if count >= rows:
        raise DataError(
            f"{data.train.source}: {rows} row(s) are too few to hold out {count} for validation; "
            "give more, or --validation FILE"
        )
    order = np.random.default_rng(seed).permutation(rows)
    kept, held = np.sort(order[count:]), np.sort(order[:count])
    note = f"{count:,} of {rows:,} rows of {data.train.source}, drawn with seed {seed}, are held out for validation"
    return dataclasses.replace(
        data,
        train=data.train.take(kept),
        validation=(data.train.take(held, "validation"),),
        notes=(*data.notes, note),
    )


def _sampled(data: TaskData, request: DataRequest, seed: int) -> TaskData:
    """Apply the row limits, and refuse what cannot be learned from."""
    notes = list(data.notes)
    splits = []
    for split in (data.train, *data.validation):
        limit = request.max_train_rows if split is data.train else request.max_validation_rows
        if limit is not None and limit < len(split):
            notes.append(f"{split.name}: {limit:,} of {len(split):,} rows, drawn with seed {seed}")
            chosen = np.random.default_rng(seed).choice(len(split), limit, replace=False)
            split = split.take(np.sort(chosen))
        splits.append(split)
    train = splits[0]
    if not data.regression and len(np.unique(train.labels)) < 2:
        assert data.label_names is not None
        raise DataError(
            f"{train.source}: all {len(train):,} training rows are of class "
            f"{data.label_names[int(train.labels[0])]!r}; classification needs at least two classes"
        )
    return dataclasses.replace(data, train=train, validation=tuple(splits[1:]), notes=tuple(notes))
