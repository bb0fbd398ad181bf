"""Rows that are held out, and rows that are drawn at random, of any kind of training data."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import numpy as np

from ufbert.errors import DataError

from .request import DataRequest
from .task_data import TrainingData

__all__ = ["hold_out", "sampled"]

Data = TypeVar("Data", bound=TrainingData)


def hold_out(data: Data, fraction: float, seed: int) -> Data:
    """The data with a share of its training rows for validation. Raises `DataError` where they are too few."""
    train: Any = data.train
    rows = len(train)
    count = max(1, round(fraction * rows))
    if count >= rows:
        raise DataError(
            f"{train.source}: {rows} row(s) are too few to hold out {count} for validation; "
            "give more, or --validation FILE"
        )
    order = np.random.default_rng(seed).permutation(rows)
    kept, held = np.sort(order[count:]), np.sort(order[:count])
    note = f"{count:,} of {rows:,} rows of {train.source}, drawn with seed {seed}, are held out for validation"
    return dataclasses.replace(
        data, train=train.take(kept), validation=(train.take(held, "validation"),), notes=(*data.notes, note)
    )


def sampled(data: Data, request: DataRequest, seed: int) -> Data:
    """The data with no more rows than `request` wants."""
    notes = list(data.notes)
    splits = []
    for split in (data.train, *data.validation):
        limit = request.max_train_rows if split is data.train else request.max_validation_rows
        if limit is not None and limit < len(split):
            notes.append(f"{split.name}: {limit:,} of {len(split):,} rows, drawn with seed {seed}")
            chosen = np.random.default_rng(seed).choice(len(split), limit, replace=False)
            split = split.take(np.sort(chosen))
        splits.append(split)
    return dataclasses.replace(data, train=splits[0], validation=tuple(splits[1:]), notes=tuple(notes))
