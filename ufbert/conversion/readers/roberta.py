"""Reader of Hugging Face `roberta` checkpoints, and of `xlm-roberta` and `camembert`, which are the same model.

Positions are numbered from `pad_token_id + 1`, so the table has that many rows more than a text has tokens.
"""

from __future__ import annotations

from typing import Any

from ufbert.errors import CheckpointError

from .bert import LAYERS, encoder_values
from .bert_family import read_model
from .bert_heads import ClassifierNames, HeadNames
from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = ["CLASSIFIER", "HEAD", "number_from", "read"]

HEAD = HeadNames(dense="lm_head.dense", norm="lm_head.layer_norm", decoder="lm_head.decoder", bias="lm_head.bias")
CLASSIFIER = ClassifierNames(dense="classifier.dense", scores="classifier.out_proj")


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = "roberta." if tensors.has_any("roberta.") else ""
    values = encoder_values(config)
    config.require("embedding_size", values["hidden_size"])
    number_from(config, values, config.integer("pad_token_id", 1))
    return read_model(config, tensors, values, base, LAYERS, HEAD, CLASSIFIER, head_act="gelu")


def number_from(config: ForeignConfig, values: dict[str, Any], padding: int) -> None:
    """Make `values` number positions behind the padding's id, whose row the table begins with."""
    values["pad_token_id"], values["position_offset"] = padding, padding + 1
    values["max_position_embeddings"] -= padding + 1
    if values["max_position_embeddings"] < 1:
        raise CheckpointError(f"{config.where}: max_position_embeddings leaves no room beside the padding's row")
