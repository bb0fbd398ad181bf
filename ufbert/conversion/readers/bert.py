"""Reader of Hugging Face `bert` checkpoints, MiniLM and the sentence embedders built on them included."""

from __future__ import annotations

from typing import Any

from ufbert.model.config import UltraFastBertConfig

from .bert_family import (
    ACTIVATIONS,
    HeadNames,
    LayerNames,
    classifier_values,
    copy_norm,
    finish,
    masked_lm_values,
    read_classifier,
    read_layers,
    read_masked_lm_head,
)
from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = ["LAYERS", "embeddings_state", "encoder_values", "read"]

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


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = "bert." if tensors.has_any("bert.") else ""
    word = f"{base}embeddings.word_embeddings.weight"
    values = encoder_values(config)
    notes: list[str] = []
    hidden, vocabulary = values["hidden_size"], values["vocab_size"]
    if f"{HEAD.dense}.weight" in tensors:
        values |= masked_lm_values(tensors, HEAD, word, vocabulary, hidden)
    elif is_classifier(config) and "classifier.weight" in tensors and f"{base}pooler.dense.weight" in tensors:
        values |= classifier_values(config, tensors, "classifier", hidden) or {}
    ours = UltraFastBertConfig(**values)
    state = embeddings_state(tensors, ours, base)
    state |= read_layers(tensors, ours, LAYERS, base)
    if ours.architectures == ("UltraFastBertForMaskedLM",):
        state |= read_masked_lm_head(tensors, ours, HEAD)
    elif ours.architectures == ("UltraFastBertForSequenceClassification",):
        state |= read_classifier(tensors, ours, f"{base}pooler.dense", "classifier")
    return finish(ours, state, tensors, base, notes)


def is_classifier(config: ForeignConfig) -> bool:
    """Token classifiers and multiple choice call their scores `classifier` too."""
    names = config.get("architectures", [])
    return any("SequenceClassification" in str(name) for name in names)


def encoder_values(config: ForeignConfig) -> dict[str, Any]:
    """Our config's values for the encoder of BERT or RoBERTa."""
    config.require("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        config.require(name, False)
    hidden = config.integer("hidden_size")
    config.require("embedding_size", hidden)
    return {
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": hidden,
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


def embeddings_state(tensors: ForeignTensors, config: UltraFastBertConfig, base: str) -> dict[str, Any]:
    """Word, position and token-type tables and their norm."""
    hidden, theirs, ours = config.hidden_size, f"{base}embeddings.", "encoder.embeddings."
    rows = config.max_position_embeddings + config.position_offset
    state = {
        ours + "word.weight": tensors.take(theirs + "word_embeddings.weight", config.vocab_size, hidden),
        ours + "position.weight": tensors.take(theirs + "position_embeddings.weight", rows, hidden),
    }
    if config.type_vocab_size:
        name = theirs + "token_type_embeddings.weight"
        state[ours + "token_type.weight"] = tensors.take(name, config.type_vocab_size, hidden)
    return state | copy_norm(tensors, theirs + "LayerNorm", ours + "norm", hidden)
