"""From the user's words to the rows to finetune on: a GLUE task or files of labelled texts.

DataRequest(train="reviews.csv", label_column="stars")  --load_task_data-->  TaskData
"""

from __future__ import annotations

import dataclasses

import numpy as np

from ufbert.errors import DataError
from ufbert.text.files import expand_paths

from .glue_data import load_glue
from .labelled_rows import holds_values, infer_class_names, read_labelled
from .request import VALIDATION_FRACTION, DataRequest
from .task_data import TaskData, build_task_data
from .tasks import CLASSIFICATION, REGRESSION, glue_task

__all__ = ["load_task_data"]


def load_task_data(request: DataRequest, seed: int = 0) -> TaskData:
    """Read what `request` asks for; `seed` draws the samples and the rows held out.

    Raises `DataError` with `file:line` for rows that do not fit, and for data with nothing to learn.
    """
    if request.task is not None:
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
        data = _hold_out(data, request.validation_fraction or VALIDATION_FRACTION, seed)
    return data


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
