"""A finetuning run on texts with classes or values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from ufbert.model.heads import UltraFastBertForSequenceClassification
from ufbert.settings.sections import FinetuningSettings

from .class_report import ClassReport
from .epochs import FinetuningRun
from .evaluation import predict_logits
from .model import LoadedModel, scale_output
from .objective import Objective
from .sequence_batches import Sequences, encode_sequences
from .task_data import Split, TaskData
from .tasks import Scores, baseline_prediction

__all__ = ["ClassificationRun"]


class ClassificationRun(FinetuningRun):
    """One head that reads the whole text."""

    data: TaskData
    model: UltraFastBertForSequenceClassification

    def __init__(
        self,
        loaded: LoadedModel[UltraFastBertForSequenceClassification],
        tokenizer: Tokenizer,
        data: TaskData,
        settings: FinetuningSettings,
        device: torch.device,
        out: Path,
        source: str,
        command: str,
    ) -> None:
        super().__init__(loaded, tokenizer, data, settings, device, out, source, command)
        self.objective = Objective(data, settings.class_weights, device)
        self.predictions: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {}
        if data.regression and not loaded.head_is_new:
            scale_output(self.model, 1.0 / self.objective.factor, -self.objective.offset / self.objective.factor)

    def _encode(self, split: Split) -> Sequences:
        return encode_sequences(
            self.tokenizer, split.texts, split.pairs, self.max_length, self.model.config.pad_token_id
        )

    def _baseline(self) -> tuple[str, tuple[Scores, ...]]:
        data = self.data
        name, prediction = baseline_prediction(data.train.labels, data.regression)
        return name, tuple(
            data.measure.scores(
                split.labels, np.broadcast_to(prediction, split.labels.shape).astype(split.labels.dtype)
            )
            for split in data.validation
        )

    def _length_notes(self) -> list[str]:
        cut = self.train_sequences.cut + sum(s.cut for s in self.validation_sequences)
        rows = len(self.train_sequences) + sum(map(len, self.validation_sequences))
        limit = "the model's limit" if self.max_length < self.settings.max_length else "finetuning.max_length"
        return [f"{cut:,} of {rows:,} rows are cut to {self.max_length} tokens ({limit})"] if cut else []

    def _loss(self, rows: npt.NDArray[np.int64], batch: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = self.model(**batch).logits
        return self.objective.loss(logits, self.objective.labels[rows].to(self.device), self.model.config)

    def _validate(self) -> tuple[float, tuple[Scores, ...]]:
        total, scores, self.predictions = 0.0, [], {}
        for split, sequences in zip(self.data.validation, self.validation_sequences, strict=True):
            logits = predict_logits(self.model, sequences, self.device, self.dtype)  # (rows, num_labels)
            loss, predictions = self.objective.judge(logits, split.labels)
            total += loss
            self.predictions[split.name] = split.labels, predictions
            scores.append(self.data.measure.scores(split.labels, predictions))
        return total / sum(map(len, self.data.validation)), tuple(scores)

    def _class_report(self) -> ClassReport | None:
        return None if self.data.label_names is None else ClassReport(self.data.label_names, self.predictions)

    def _write_weights(self, folder: Path) -> None:
        """The model in the labels' own units, without disturbing the one in training."""
        scores = self.model.classifier.scores
        trained = [p.detach().clone() for p in (scores.weight, scores.bias)]
        if self.data.regression:
            scale_output(self.model, self.objective.factor, self.objective.offset)
        try:
            super()._write_weights(folder)
        finally:
            with torch.no_grad():
                for parameter, value in zip((scores.weight, scores.bias), trained, strict=True):
                    parameter.copy_(value)
