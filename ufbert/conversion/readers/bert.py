"""Reader of Hugging Face `bert` checkpoints, MiniLM and the sentence embedders built on them included."""

from __future__ import annotations

import dataclasses
from typing import Any

from .bert_family import ACTIVATIONS, LayerNames, read_model
from .bert_heads import ClassifierNames, HeadNames
from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = ["CLASSIFIER", "HEAD", "LAYERS", "encoder_values", "read"]

LAYERS = LayerNames(
    prefix="encoder.layer.{}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    feedforward_in="intermediate.dense",
    feedforward_out="output.dense",
    feedforward_norm="output.LayerNorm",
)
HEAD = HeadNames(
    dense="cls.predictions.transform.dense",
    norm="cls.predictions.transform.LayerNorm",
    decoder="cls.predictions.decoder",
    bias="cls.predictions.bias",
)
CLASSIFIER = ClassifierNames(dense="bert.pooler.dense", scores="classifier")


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = "bert." if tensors.has_any("bert.") else ""
    values = encoder_values(config)
    config.require("embedding_size", values["hidden_size"])
    classifier = dataclasses.replace(CLASSIFIER, dense=f"{base}pooler.dense")
    return read_model(config, tensors, values, base, LAYERS, HEAD, classifier)


def encoder_values(config: ForeignConfig) -> dict[str, Any]:
    """Our config's values for the encoder of BERT, RoBERTa or ELECTRA."""
    config.require("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        config.require(name, False)
    return {
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": config.integer("hidden_size"),
        "num_hidden_layers": config.integer("num_hidden_layers"),
        "num_attention_heads": config.integer("num_attention_heads"),
        "max_position_embeddings": config.integer("max_position_embeddings"),
        "pad_token_id": config.integer("pad_token_id", 0),
        "feedforward": "dense",
        "intermediate_size": config.integer("intermediate_size"),
        "hidden_act": config.translate("hidden_act", ACTIVATIONS, "gelu"),
        "layer_norm_eps": config.number("layer_norm_eps", 1e-12),
        "norm_position": "post",
        "embedding_norm": True,
        "final_norm": False,
        "position_embedding_type": "absolute",
        "type_vocab_size": config.integer("type_vocab_size", 2),
        "use_bias": True,
        "hidden_dropout_prob": config.number("hidden_dropout_prob", 0.1),
        "attention_probs_dropout_prob": config.number("attention_probs_dropout_prob", 0.1),
        "initializer_range": config.number("initializer_range", 0.02),
        "architectures": ("UltraFastBertModel",),
    }
