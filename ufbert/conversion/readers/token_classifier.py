"""Token classifiers of BERT's kin: `classifier`, one Linear; ModernBERT has the masked LM's transform before it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ufbert.model.config import UltraFastBertConfig

from .foreign import ForeignConfig, ForeignTensors

__all__ = ["SCORES", "TOKEN_CLASSIFIER", "read_token_classifier", "tags_tokens", "token_classifier_values"]

TOKEN_CLASSIFIER = "UltraFastBertForTokenClassification"
SCORES = "classifier"


def tags_tokens(named: list[str], tensors: ForeignTensors) -> bool:
    """Whether the file holds a token classifier; `named` are the `architectures` of config.json.

    A file without names is not taken for one: multiple choice keeps its scores under the same name.
    """
    return any("TokenClassification" in name for name in named) and f"{SCORES}.weight" in tensors


def token_classifier_values(
    config: ForeignConfig, tensors: ForeignTensors, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Config values of a token classifier; `values` are those of the encoder."""
    labels = tensors.rows(f"{SCORES}.weight")
    dropout = config.get("classifier_dropout")
    read: dict[str, Any] = {
        "classifier_dropout": values["hidden_dropout_prob"] if dropout is None else config.number("classifier_dropout"),
        "num_labels": labels,
        "architectures": (TOKEN_CLASSIFIER,),
    }
    names = config.get("id2label")
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(labels))):
        read["id2label"] = {int(k): str(v) for k, v in names.items()}
    return read


def read_token_classifier(tensors: ForeignTensors, config: UltraFastBertConfig) -> dict[str, torch.Tensor]:
    """Every token -> scores."""
    return {
        "tagger.scores.weight": tensors.take(f"{SCORES}.weight", config.num_labels, config.hidden_size),
        "tagger.scores.bias": tensors.take_bias_of(SCORES, config.num_labels),
    }
