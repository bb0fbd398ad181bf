"""A finetuning run on sentences whose words have tags."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from ufbert.model.heads import IGNORED_LABEL
from ufbert.model.token_head import UltraFastBertForTokenClassification, token_loss
from ufbert.settings.sections import FinetuningSettings
from ufbert.system.devices import autocast
from ufbert.text.batching import length_batches

from .class_report import ClassFigures, ClassReport
from .entities import OUTSIDE, EntityCounts, count_entities
from .epochs import FinetuningRun
from .evaluation import EVALUATION_BATCH_SIZE
from .model import LoadedModel
from .objective import tag_weights
from .tag_data import TagData, TagSplit
from .tag_sequences import TaggedSequences, encode_tagged
from .tasks import Scores

__all__ = ["EntityReport", "TaggingRun"]

Tags = Sequence[npt.NDArray[np.int64]]


class Judged(NamedTuple):
    """Predictions of a validation set beside the truth."""

    counts: EntityCounts
    accuracy: float
    """Share of the words whose tag is right."""

    @property
    def scores(self) -> Scores:
        """By the names of `tasks.TAGGING`."""
        overall = self.counts.overall
        return {
            "F1": overall.f1,
            "precision": overall.precision,
            "recall": overall.recall,
            "accuracy": self.accuracy,
        }


class EntityReport(ClassReport):
    """How well the entities of each type are found, by the saved epoch's predictions."""

    file, title = "entities.csv", "Entities"
    kind, unit = "type", "entities"

    def __init__(self, judged: dict[str, Judged]) -> None:
        super().__init__((), {})
        self.judged = judged

    def figures(self) -> list[ClassFigures]:
        """A row for each type of each set."""
        return [
            ClassFigures(split, kind, counts.precision, counts.recall, counts.f1, counts.there)
            for split, judged in self.judged.items()
            for kind, counts in judged.counts.by_type.items()
        ]

    @property
    def several(self) -> bool:
        """Whether there is more than one validation set."""
        return len(self.judged) > 1

    def draw(self, folder: Path) -> None:
        """Nothing: what is missed or wrongly found has no place in a confusion matrix of types."""


class TaggingRun(FinetuningRun):
    """One head that reads every token."""

    label_kind = "tags"
    data: TagData
    model: UltraFastBertForTokenClassification
    train_sequences: TaggedSequences
    validation_sequences: list[TaggedSequences]

    def __init__(
        self,
        loaded: LoadedModel[UltraFastBertForTokenClassification],
        tokenizer: Tokenizer,
        data: TagData,
        settings: FinetuningSettings,
        device: torch.device,
        out: Path,
        source: str,
        command: str,
    ) -> None:
        # What a word without a token is taken to be, and the baseline's prediction for all.
        self.most_frequent = int(data.counts().argmax())
        names = data.label_names
        self.default = names.index(OUTSIDE) if OUTSIDE in names else self.most_frequent
        super().__init__(loaded, tokenizer, data, settings, device, out, source, command)
        weights = tag_weights(data, settings.class_weights)
        self.weights = None if weights is None else weights.to(device)
        self.judged: dict[str, Judged] = {}

    def _encode(self, split: TagSplit) -> TaggedSequences:
        return encode_tagged(self.tokenizer, split, self.max_length)

    def _baseline(self) -> tuple[str, tuple[Scores, ...]]:
        judged = (
            self._judge(split, [np.full_like(tags, self.most_frequent) for tags in split.tags])
            for split in self.data.validation
        )
        return f"{self.data.label_names[self.most_frequent]} for every word", tuple(j.scores for j in judged)

    def _length_notes(self) -> list[str]:
        sets = (self.train_sequences, *self.validation_sequences)
        rows = sum(map(len, (self.data.train, *self.data.validation)))
        notes = []
        if split := sum(s.cut for s in sets):
            notes.append(f"{split:,} of {rows:,} rows are read in overlapping windows of {self.max_length} tokens")
        if lost := sum(s.lost for s in sets):
            notes.append(
                f"{lost:,} words are nothing to the tokenizer; they are not learned, and judged as tagged "
                f"{self.data.label_names[self.default]}"
            )
        return notes

    def _loss(self, rows: npt.NDArray[np.int64], batch: dict[str, torch.Tensor]) -> torch.Tensor:
        labels = self.train_sequences.label_batch(rows.tolist()).to(self.device)
        return token_loss(self.model(**batch).logits, labels, self.weights)

    def _validate(self) -> tuple[float, tuple[Scores, ...]]:
        loss, words, self.judged = 0.0, 0, {}
        for split, sequences in zip(self.data.validation, self.validation_sequences, strict=True):
            summed, tags = self._predict(split, sequences)
            loss += summed
            words += sum(map(len, sequences.words))
            self.judged[split.name] = self._judge(split, tags)
        return loss / max(words, 1), tuple(judged.scores for judged in self.judged.values())

    def _predict(self, split: TagSplit, sequences: TaggedSequences) -> tuple[float, Tags]:
        """The loss added up over words, and every sentence's tags (words,)."""
        config, total = self.model.config, 0.0
        tags = [np.full_like(true, self.default) for true in split.tags]
        self.model.eval()
        with torch.inference_mode(), autocast(self.device, self.dtype):
            for rows in length_batches(sequences.lengths, EVALUATION_BATCH_SIZE, 0):
                numbers = rows.tolist()
                batch = sequences.batch(numbers, config.pad_token_id, config.type_vocab_size > 1)
                logits = self.model(**{k: v.to(self.device) for k, v in batch.items()}).logits.float().cpu()
                labels = sequences.label_batch(numbers)  # (B, T)
                total += float(F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum"))
                best = logits.argmax(-1).numpy()  # (B, T)
                for row, predicted in zip(numbers, best, strict=True):
                    labelled = np.flatnonzero(sequences.labels[row] != IGNORED_LABEL)
                    tags[sequences.owner[row]][sequences.words[row]] = predicted[labelled]
        return total, tags

    def _judge(self, split: TagSplit, predicted: Tags) -> Judged:
        names = self.data.label_names
        true, found = ([[names[t] for t in tags] for tags in side] for side in (split.tags, predicted))
        accuracy = float(np.mean(np.concatenate(split.tags) == np.concatenate(predicted)))
        return Judged(count_entities(true, found, pieces=self.data.pieces), accuracy)

    def _class_report(self) -> EntityReport:
        return EntityReport(self.judged)
