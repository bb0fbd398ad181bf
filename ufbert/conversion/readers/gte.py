"""Reader of `gte` checkpoints, and of `new`, as Alibaba-NLP's own code calls the same model (gte v1.5, multilingual).

NomicBERT's layers with biases, and RoBERTa's masked-LM head.
"""

from __future__ import annotations

from typing import Any

import torch

from ufbert.model.config import UltraFastBertConfig

from .bert_family import ACTIVATIONS, read_heads_with
from .bert_heads import ClassifierNames, HeadNames
from .foreign import ForeignConfig, ForeignTensors, Reading
from .rotary import Names, NamesOfTransformers, angles, read_gated_encoder

__all__ = ["read"]

OWN_NAMES = Names(
    embedding_norm="embeddings.LayerNorm",
    prefix="encoder.layer.{}.",
    query_key_value=("attention.qkv_proj",),
    attention_output="attention.o_proj",
    attention_norm="attn_ln",
    gate_and_factor=("mlp.up_gate_proj",),
    feedforward_out="mlp.down_proj",
    feedforward_norm="mlp_ln",
)


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = next((prefix for prefix in ("gte.", "new.") if tensors.has_any(prefix)), "")
    own = tensors.has_any(f"{base}encoder.layer.")
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    for name, value in (("position_embedding_type", "rope"), ("layer_norm_type", "layer_norm"), ("pack_qkv", True)):
        config.require(name, value)
    config.require("logn_attention_scale", False)
    new = config.get("model_type") == "new"
    values: dict[str, Any] = {
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": hidden,
        "num_hidden_layers": config.integer("num_hidden_layers"),
        "num_attention_heads": heads,
        "max_position_embeddings": config.integer("max_position_embeddings"),
        "pad_token_id": config.integer("pad_token_id", 0 if new else 1),
        "feedforward": "dense",
        "intermediate_size": config.integer("intermediate_size"),
        "hidden_act": config.translate("hidden_act", ACTIVATIONS, "gelu"),
        "is_gated_act": True,
        "layer_norm_eps": config.number("layer_norm_eps", 1e-12),
        "norm_position": "post",
        "embedding_norm": True,
        "final_norm": False,
        "position_embedding_type": "rotary",
        **angles(config, 10_000.0 if new else 160_000.0, hidden // max(heads, 1)),
        "type_vocab_size": config.integer("type_vocab_size", 1),
        "use_bias": True,
        "hidden_dropout_prob": config.number("hidden_dropout_prob", 0.1),
        "attention_probs_dropout_prob": config.number("attention_probs_dropout_prob", 0.0),
        "initializer_range": config.number("initializer_range", 0.02),
        "architectures": ("UltraFastBertModel",),
    }
    norm = "lm_head.norm" if "lm_head.norm.weight" in tensors else "lm_head.layer_norm"
    head = HeadNames(dense="lm_head.dense", norm=norm, decoder="lm_head.decoder", bias="lm_head.decoder.bias")
    classifier = ClassifierNames(dense=f"{base}pooler.dense", scores="classifier")

    def read_encoder(ours: UltraFastBertConfig) -> dict[str, torch.Tensor]:
        return read_gated_encoder(tensors, ours, OWN_NAMES if own else NamesOfTransformers, base)

    # transformers' head has GELU whatever the layers have, Alibaba-NLP's has the layers' activation.
    head_act = None if new else "gelu"
    return read_heads_with(config, tensors, values, base, read_encoder, head, classifier, head_act)
