"""Reader of Hugging Face `electra` checkpoints: BERT's layers, embeddings that may be narrower, and heads with GELU."""

from __future__ import annotations

from .bert import LAYERS, encoder_values
from .bert_family import read_model
from .bert_heads import ClassifierNames, HeadNames
from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = ["CLASSIFIER", "HEAD", "read"]

HEAD = HeadNames(
    dense="generator_predictions.dense",
    norm="generator_predictions.LayerNorm",
    decoder="generator_lm_head",
    bias="generator_lm_head.bias",
)
CLASSIFIER = ClassifierNames(dense="classifier.dense", scores="classifier.out_proj", activation="gelu")


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = "electra." if tensors.has_any("electra.") else ""
    values = encoder_values(config)
    width = config.integer("embedding_size", 128)  # the family's own default
    if width != values["hidden_size"]:
        values["embedding_size"] = width
    return read_model(config, tensors, values, base, LAYERS, HEAD, CLASSIFIER, head_act="gelu")
