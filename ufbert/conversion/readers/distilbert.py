"""Reader of Hugging Face `distilbert` checkpoints: BERT without token types and pooler, under other names."""

from __future__ import annotations

from typing import Any

from .bert_family import ACTIVATIONS, LayerNames, read_model
from .bert_heads import ClassifierNames, HeadNames
from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = ["CLASSIFIER", "HEAD", "LAYERS", "read"]

LAYERS = LayerNames(
    prefix="transformer.layer.{}.",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    feedforward_in="ffn.lin1",
    feedforward_out="ffn.lin2",
    feedforward_norm="output_layer_norm",
)
HEAD = HeadNames(
    dense="vocab_transform", norm="vocab_layer_norm", decoder="vocab_projector", bias="vocab_projector.bias"
)

CLASSIFIER = ClassifierNames(
    dense="pre_classifier", scores="classifier", activation="relu", dropout="seq_classif_dropout"
)


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = "distilbert." if tensors.has_any("distilbert.") else ""
    values: dict[str, Any] = {
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": config.integer("dim"),
        "num_hidden_layers": config.integer("n_layers"),
        "num_attention_heads": config.integer("n_heads"),
        "max_position_embeddings": config.integer("max_position_embeddings"),
        "pad_token_id": config.integer("pad_token_id", 0),
        "feedforward": "dense",
        "intermediate_size": config.integer("hidden_dim"),
        "hidden_act": config.translate("activation", ACTIVATIONS, "gelu"),
        "layer_norm_eps": 1e-12,  # fixed in this family
        "norm_position": "post",
        "embedding_norm": True,
        "final_norm": False,
        "position_embedding_type": "absolute",
        "use_bias": True,
        "hidden_dropout_prob": config.number("dropout", 0.1),
        "attention_probs_dropout_prob": config.number("attention_dropout", 0.1),
        "initializer_range": config.number("initializer_range", 0.02),
        "architectures": ("UltraFastBertModel",),
    }
    return read_model(config, tensors, values, base, LAYERS, HEAD, CLASSIFIER)
