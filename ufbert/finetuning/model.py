"""The model that finetuning starts from: a checkpoint's encoder with the head that the task needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from tokenizers import Tokenizer
from torch import nn

from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import CheckpointError
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.heads import ClassificationHead, UltraFastBertForSequenceClassification
from ufbert.model.pretrained import PretrainedModel, read_config, unallocated
from ufbert.settings.sections import FinetuningSettings

from .task_data import TaskData

__all__ = ["LoadedModel", "listed", "load_model", "matching_tokenizer", "reorder_scores", "scale_output"]

Model = TypeVar("Model", bound=PretrainedModel)

READS = {"first": "the first token", "mean": "the mean"}


def matching_tokenizer(folder: Path, given: Path | None, vocab_size: int) -> Tokenizer:
    """The checkpoint's tokenizer, or the `given` one. Raises `CheckpointError` if it cannot be the model's."""
    if given is None and not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt")):
        raise CheckpointError(
            f"{folder}: has no tokenizer.json, which finetuning needs; put the model's own there, or give --tokenizer"
        )
    tokenizer = load_tokenizer(given or folder)
    entries = max(tokenizer.get_vocab().values(), default=-1) + 1
    if entries > vocab_size:
        raise CheckpointError(
            f"{given or folder}: the tokenizer has {entries:,} entries, the model's vocabulary {vocab_size:,}; "
            "give the tokenizer that the model was trained with"
        )
    return tokenizer


class LoadedModel(NamedTuple, Generic[Model]):
    """A model to finetune."""

    model: Model
    head_is_new: bool
    head: str
    """Half a sentence on where the head comes from."""


def load_model(
    folder: Path, data: TaskData, settings: FinetuningSettings
) -> LoadedModel[UltraFastBertForSequenceClassification]:
    """The model to finetune.

    A checkpoint that already classifies into the same classes, with the same pooling, keeps its head; every
    other one gets a new head, drawn from torch's generator. Raises `CheckpointError`.
    """
    config = read_config(folder)
    dropout: dict[str, Any] = {
        "hidden_dropout_prob": settings.dropout,
        "attention_probs_dropout_prob": settings.dropout,
        "classifier_dropout": settings.dropout,
    }
    names = data.label_names
    task: dict[str, Any] = {
        "classifier_pooling": settings.pooling,
        "num_labels": 1 if names is None else len(names),
        "id2label": None if names is None else dict(enumerate(names)),
        "problem_type": data.problem_type,
        "score_activation": None,
    }
    wanted = config.replace(**dropout, **task)
    kind = (
        "regression head" if names is None else f"head for {len(names)} {'labels' if data.multi_label else 'classes'}"
    )
    reason = "the checkpoint has none"
    if UltraFastBertForSequenceClassification.__name__ in config.architectures:
        old = ["regression"] if config.problem_type == "regression" else config.label_names
        new = ["regression"] if names is None else list(names)
        if sorted(old) != sorted(new):
            reason = f"the checkpoint's is for {listed(old)}, not {listed(new)}"
        elif config.multi_label != data.multi_label:
            reason = "the checkpoint's gives a text " + ("any number of labels" if config.multi_label else "one class")
        elif config.classifier_pooling != settings.pooling:
            reason = f"the checkpoint's reads {READS[config.classifier_pooling]}, not {READS[settings.pooling]}"
        else:
            model = UltraFastBertForSequenceClassification.from_pretrained(folder, **dropout)
            reorder_scores(model.classifier.scores, old, new)
            model.config = wanted
            return LoadedModel(model, False, f"goes on with the checkpoint's {kind}")
    encoder = UltraFastBertModel.from_pretrained(folder, **dropout, **task)
    with unallocated():  # its encoder is replaced at once
        model = UltraFastBertForSequenceClassification(wanted)
    model.encoder = encoder
    model.classifier = ClassificationHead(wanted).apply(model.initialize)
    return LoadedModel(model, True, f"new {kind}: {reason}")


def reorder_scores(scores: nn.Linear, old: list[str], new: list[str]) -> None:
    """Give the scores named `old` the order of `new`, as the same classes may be numbered otherwise."""
    order = torch.tensor([old.index(name) for name in new])
    with torch.no_grad():
        scores.weight.copy_(scores.weight[order])
        scores.bias.copy_(scores.bias[order])


def scale_output(model: UltraFastBertForSequenceClassification, factor: float, offset: float) -> None:
    """Change a regression model's score s into factor * s + offset, in its last layer's parameters."""
    scores = model.classifier.scores
    with torch.no_grad():
        scores.weight.mul_(factor)
        scores.bias.mul_(factor).add_(offset)


def listed(names: list[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
