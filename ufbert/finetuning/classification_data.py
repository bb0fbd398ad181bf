"""From the user's words to the rows to finetune on: a GLUE task or files of labelled texts.

DataRequest(train="reviews.csv", label_column="stars")  --load_task_data-->  TaskData
"""

from __future__ import annotations

import numpy as np

from ufbert.errors import DataError
from ufbert.reporting import note
from ufbert.text.bad_rows import BadRows
from ufbert.text.files import expand_paths

from .glue_data import load_glue
from .labelled_rows import LabelledRows, are_signs, holds_values, infer_class_names, read_labelled, refuse_negative
from .raw_labels import is_fractional
from .request import VALIDATION_FRACTION, DataRequest
from .sampling import hold_out, sampled
from .several_labels import holds_lists, infer_label_names, split_labels
from .task_data import TaskData, build_task_data
from .tasks import CLASSIFICATION, MULTI_LABEL, REGRESSION, glue_task

__all__ = ["load_task_data"]


def load_task_data(request: DataRequest, seed: int = 0) -> TaskData:
    """Read what `request` asks for; `seed` draws the samples and the rows held out.

    Raises `DataError` with `file:line` for rows that do not fit, and for data with nothing to learn.
    """
    if request.task is not None:
        data = load_glue(glue_task(request.task), request.data)
    else:
        data = _load_files(request, seed)
    return _check_learnable(sampled(data, request, seed))


def _load_files(request: DataRequest, seed: int) -> TaskData:
    assert request.train is not None
    splits = {"train": _read(request, request.train)}
    if request.validation is not None:
        splits["validation"] = _read(request, request.validation)
    train = splits["train"]
    notes = []
    several = any(map(holds_lists, splits.values()))
    regression = request.regression
    if several and regression is not None:
        raise DataError(f"{train.source}: rows have lists of labels, which are neither values nor single classes")
    if regression is None and not several and (regression := holds_values(train)):
        notes.append("labels are numbers with a decimal point: regression (--classification makes them classes)")
    elif request.regression is None and not several and not train.class_names and any(map(is_fractional, train.labels)):
        notes.append("labels are whole numbers: classes (--regression makes them values)")
    names = None
    if not regression and (train.class_names or not are_signs(splits.values())):
        splits = {name: refuse_negative(rows, skip=request.skip_unlabelled) for name, rows in splits.items()}
        train = splits["train"]
    if not regression:
        names = infer_label_names(train) if several else infer_class_names(train)
    for rows in splits.values():
        if rows.skipped:
            total = rows.skipped + len(rows)
            notes.append(f"{rows.skipped:,} of {total:,} rows of {rows.source} have no label and are left out")
    held_out = splits.pop("validation", None)
    data = build_task_data(
        request.name,
        names,
        REGRESSION if regression else MULTI_LABEL if several else CLASSIFICATION,
        train,
        {} if held_out is None else {"validation": held_out},
        numbered=train.class_names is not None,
        notes=notes,
        multi_label=several,
    )
    if held_out is None:
        data = hold_out(data, request.validation_fraction or VALIDATION_FRACTION, seed)
    return data


def _read(request: DataRequest, files: str) -> LabelledRows:
    *texts, label = request.columns
    paths = expand_paths([files])
    request.reading.check(paths)
    bad = BadRows()
    rows = read_labelled(
        paths,
        texts,
        label,
        on_bad=bad if request.skip_bad else None,
        skip_unlabelled=request.skip_unlabelled,
        reading=request.reading,
    )
    if bad.count:
        note(f"{rows.source}: {bad.count:,} bad rows were skipped")
    if request.label_separator is not None:
        split_labels(rows, request.label_separator)
    return rows


def _check_learnable(data: TaskData) -> TaskData:
    """Raise `DataError` for labels that do not differ."""
    train = data.train
    if data.multi_label:
        if (train.labels == train.labels[0]).all():
            raise DataError(f"{train.source}: all {len(train):,} training rows have the same labels; nothing to learn")
    elif not data.regression and len(np.unique(train.labels)) < 2:
        assert data.label_names is not None
        raise DataError(
            f"{train.source}: all {len(train):,} training rows are of class "
            f"{data.label_names[int(train.labels[0])]!r}; classification needs at least two classes"
        )
    return data
