"""What a task makes of a batch, and the labels with scores that classifying makes of it.

A task knows the model class it needs, which texts it cannot take, and how hidden states become results.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from ufbert.errors import CheckpointError, DataError
from ufbert.model.heads import UltraFastBertForSequenceClassification
from ufbert.text.batching import Example, Window
from ufbert.text.long_texts import TextPart

__all__ = ["Classify", "Prediction", "Task", "finite", "shortest", "weighted_mean"]

LEAST_SCORE = 0.5
"""Probability from which a text has a label, where it may have several."""

Prediction: TypeAlias = "dict[str, Any] | npt.NDArray[np.float32]"


class Task(abc.ABC):
    """One way to use a model."""

    columns: tuple[str, ...]
    """What the result of a text is called in an output file."""
    sample: ClassVar[dict[str, Any]] = {}
    """Of columns whose lists may be empty in every text, a list that is not, which shows their types."""

    def prepare(self, example: Example) -> Example:
        """Change a text before it is tokenised."""
        return example

    def problems(self, window: Window) -> dict[int, DataError]:
        """The examples of a window that the task cannot take, by number, and why."""
        return {}

    @abc.abstractmethod
    def predict(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        examples: list[Example],
    ) -> list[Prediction]:
        """One result for each of the B examples; the tensors are (B, T), no mask means no padding."""

    @abc.abstractmethod
    def join(
        self,
        example: Example,
        predictions: Sequence[Prediction],
        input_ids: Sequence[npt.NDArray[np.int64]],
        parts: Sequence[TextPart],
    ) -> Prediction:
        """The result of a text that was split, from those of its rows, whose tokens lie where `parts` say."""

    def without_tokens(self, prediction: Prediction) -> Prediction:
        """The result of a text that has no token, such as a blank line without special tokens.

        `prediction` is that of a single padding token.
        """
        return prediction

    def finish(self, predictions: list[Prediction], examples: list[Example]) -> list[Prediction]:
        """What remains to be done to the results of a window's texts."""
        return predictions


SCORE_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "identity": lambda logits: logits,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "relu": torch.relu,
    "softmax": lambda logits: logits.softmax(1),
}


class Classify(Task):
    """`{"label", "score", "scores": {label: probability}}`; `{"value"}` or `{"values": {label: value}}` of regression.

    A model that gives a text any number of labels has `{"labels": [label, ...], "scores"}`: the labels whose own
    probability is at least 0.5, which may be none. Scores of a cross-encoder are those of sentence-transformers'
    `CrossEncoder.predict`, except that several which it leaves as they are become probabilities by softmax.
    """

    def __init__(self, model: UltraFastBertForSequenceClassification, score_activation: str | None = None) -> None:
        """`score_activation` goes before the config's."""
        config = model.config
        self.model = model
        activation = score_activation or config.score_activation
        self.regression = config.regression and activation is None
        self.multi_label = config.multi_label and (activation is None or config.num_labels > 1)
        if self.multi_label:
            activation = "sigmoid"
        elif activation is None or (activation == "identity" and config.num_labels > 1):
            activation = "softmax"
        self.activation = SCORE_ACTIVATIONS[activation]
        names = config.label_names
        if len(set(names)) < len(names):
            names = [f"{name} ({number})" for number, name in enumerate(names)]
        self.labels = names
        self.columns = ("label", "score", "scores")
        if self.regression:
            self.columns = ("value",) if config.num_labels == 1 else ("values",)
        elif self.multi_label:
            self.columns = ("labels", "scores")

    def predict(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        examples: list[Example],
    ) -> list[Prediction]:
        """Softmax over the classes, or what else the model's scores are, in float32."""
        logits = self.model(input_ids, attention_mask, token_type_ids=token_type_ids).logits.float()  # (B, num_labels)
        return self._label(logits if self.regression else self.activation(logits))

    def _label(self, scores: torch.Tensor) -> list[Prediction]:
        """scores (B, num_labels) -> the results of B texts."""
        if self.columns == ("value",):
            return [{"value": value} for (value,) in shortest(scores)]
        if self.regression:
            return [{"values": dict(zip(self.labels, row, strict=True))} for row in shortest(scores)]
        if self.multi_label:
            return [
                {
                    "labels": [name for name, score in zip(self.labels, row, strict=True) if score >= LEAST_SCORE],
                    "scores": dict(zip(self.labels, row, strict=True)),
                }
                for row in shortest(scores)
            ]
        best = scores.argmax(1).tolist()
        return [
            {"label": self.labels[top], "score": row[top], "scores": dict(zip(self.labels, row, strict=True))}
            for row, top in zip(shortest(scores), best, strict=True)
        ]

    def join(
        self,
        example: Example,
        predictions: Sequence[Prediction],
        input_ids: Sequence[npt.NDArray[np.int64]],
        parts: Sequence[TextPart],
    ) -> Prediction:
        """The mean of the rows' probabilities, or of their values, weighted by their tokens."""
        rows = [p[self.columns[-1]] for p in predictions if isinstance(p, dict)]
        scores = np.array([list(row.values()) if isinstance(row, dict) else [row] for row in rows])
        return self._label(torch.from_numpy(weighted_mean(scores, input_ids))[None])[0]


def weighted_mean(
    rows: npt.NDArray[np.floating[Any]], input_ids: Sequence[npt.NDArray[np.int64]]
) -> npt.NDArray[np.float32]:
    """The mean over rows (R, n), each with its number of tokens as weight."""
    weights = np.array([len(ids) for ids in input_ids], dtype=np.float64)
    mean: npt.NDArray[np.float32] = (weights @ rows / weights.sum()).astype(np.float32)
    return mean


def shortest(values: torch.Tensor) -> list[list[float]]:
    """Rows of numbers whose Python `repr` is float32's shortest: 0.1, not 0.10000000149011612."""
    rows: list[list[float]] = finite(values).numpy().astype(str).astype(np.float64).tolist()
    return rows


def finite(values: torch.Tensor) -> torch.Tensor:
    """float32 on the CPU. Raises `CheckpointError` for NaN and infinity, which no file should carry on."""
    values = values.float().cpu()
    if not bool(torch.isfinite(values).all()):
        raise CheckpointError(
            "the model's output is not finite: its weights are damaged or its training diverged; "
            "take an earlier checkpoint"
        )
    return values
