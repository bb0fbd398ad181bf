"""The model that a tagging run starts from: a checkpoint's encoder with a head for the tags."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.pretrained import read_config, unallocated
from ufbert.model.token_head import TokenHead, UltraFastBertForTokenClassification
from ufbert.settings.sections import FinetuningSettings

from .model import LoadedModel, listed, reorder_scores
from .tag_data import TagData

__all__ = ["load_tagger"]


def load_tagger(
    folder: Path, data: TagData, settings: FinetuningSettings
) -> LoadedModel[UltraFastBertForTokenClassification]:
    """The model to finetune.

    A checkpoint that already gives the same tags keeps its head; every other one gets a new head, drawn from torch's
    generator. Raises `CheckpointError`.
    """
    config = read_config(folder)
    dropout: dict[str, Any] = {
        "hidden_dropout_prob": settings.dropout,
        "attention_probs_dropout_prob": settings.dropout,
        "classifier_dropout": settings.dropout,
    }
    new = list(data.label_names)
    task: dict[str, Any] = {
        "num_labels": len(new),
        "id2label": dict(enumerate(new)),
        "problem_type": None,
        "score_activation": None,
    }
    wanted = config.replace(**dropout, **task)
    kind, reason = f"head for {len(new)} tags", "the checkpoint has none"
    if UltraFastBertForTokenClassification.__name__ in config.architectures:
        old = config.label_names
        if sorted(old) == sorted(new):
            model = UltraFastBertForTokenClassification.from_pretrained(folder, **dropout)
            reorder_scores(model.tagger.scores, old, new)
            model.config = wanted
            return LoadedModel(model, False, f"goes on with the checkpoint's {kind}")
        reason = f"the checkpoint's is for {listed(old)}, not {listed(new)}"
    encoder = UltraFastBertModel.from_pretrained(folder, **dropout, **task)
    with unallocated():  # its encoder is replaced at once
        model = UltraFastBertForTokenClassification(wanted)
    model.encoder = encoder
    model.tagger = TokenHead(wanted).apply(model.initialize)
    return LoadedModel(model, True, f"new {kind}: {reason}")
