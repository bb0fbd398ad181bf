"""What a run learns: labels as the loss wants them, and scores as the metrics want them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from ufbert.errors import ConfigError
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.heads import sequence_loss

from .tag_data import TagData
from .task_data import TaskData

__all__ = ["Objective", "class_weights", "tag_weights"]

Labels = npt.NDArray[Any]


class Objective:
    """One class a row, several labels a row, or values, which are learned in units of their spread."""

    def __init__(self, data: TaskData, weights: str | Sequence[float], device: torch.device) -> None:
        """`weights` are those of `finetuning.class_weights`. Raises `ConfigError` if they do not fit the classes."""
        self.kind = data.problem_type
        self.offset, self.factor = 0.0, 1.0
        self.labels: torch.Tensor = torch.from_numpy(data.train.labels)
        """Of the training rows: (rows,), or (rows, classes) of 0 and 1."""
        if data.regression:
            self.offset = float(np.mean(data.train.labels))
            self.factor = float(np.std(data.train.labels)) or 1.0
            self.labels = ((self.labels - self.offset) / self.factor).float()
        found = class_weights(data, weights)
        self.weights = None if found is None else found.to(device)

    def loss(self, logits: torch.Tensor, labels: torch.Tensor, config: UltraFastBertConfig) -> torch.Tensor:
        """Mean loss of a training batch: logits (B, num_labels), labels (B,) or (B, num_labels)."""
        return sequence_loss(logits, labels, config, self.weights)

    def judge(self, logits: torch.Tensor, labels: Labels) -> tuple[float, Labels]:
        """The loss added up over rows, without class weights, and what is predicted in the shape of `labels`.

        logits (rows, num_labels), labels (rows,) or (rows, num_labels).
        """
        if self.kind == "regression":
            targets = torch.from_numpy((labels - self.offset) / self.factor)
            loss = F.mse_loss(logits[:, 0].double(), targets, reduction="sum")
            return float(loss), logits[:, 0].double().numpy() * self.factor + self.offset
        targets = torch.from_numpy(labels)
        if self.kind == "multi_label_classification":
            loss = F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none").mean(1).sum()
            return float(loss), (logits > 0).long().numpy()
        return float(F.cross_entropy(logits, targets, reduction="sum")), logits.argmax(1).numpy()


def class_weights(data: TaskData, weights: str | Sequence[float]) -> torch.Tensor | None:
    """A weight for each class, (num_labels,): those given, or from how often a class occurs; None without any.

    "balanced" gives a class the weight rows / (classes * its rows), as scikit-learn does; with several labels a row
    a label's occurrences weigh as much as the rows without it. A class without training rows has weight 1.
    Raises `ConfigError` for values, which have no classes, and for a list of another length.
    """
    if not weights:
        return None
    if data.label_names is None:
        raise ConfigError("finetuning.class_weights needs classes; the labels here are values")
    names = data.label_names
    if not isinstance(weights, str):
        return _given_weights(weights, names, "classes")
    labels, rows = data.train.labels, len(data.train)
    if data.multi_label:
        counts = labels.sum(0)
        shares = (rows - counts) / np.maximum(counts, 1)
        balanced = np.where((counts > 0) & (counts < rows), shares, 1.0)
    else:
        balanced = _balanced(np.bincount(labels.astype(np.int64), minlength=len(names)))
    return torch.from_numpy(balanced).float()


def tag_weights(data: TagData, weights: str | Sequence[float]) -> torch.Tensor | None:
    """A weight for each tag (num_labels,), as `class_weights` has them: "balanced" by the words of a tag."""
    if not weights:
        return None
    if not isinstance(weights, str):
        return _given_weights(weights, data.label_names, "tags")
    return torch.from_numpy(_balanced(data.counts())).float()


def _balanced(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.where(counts > 0, counts.sum() / (len(counts) * np.maximum(counts, 1)), 1.0)


def _given_weights(weights: Sequence[float], names: Sequence[str], kind: str) -> torch.Tensor:
    if len(weights) != len(names):
        raise ConfigError(
            f"finetuning.class_weights has {len(weights)} weights, the data {len(names)} {kind} "
            f"({', '.join(names[:10])}{', ...' if len(names) > 10 else ''}); give one for each in this order"
        )
    return torch.tensor(weights, dtype=torch.float32)
