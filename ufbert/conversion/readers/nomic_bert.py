"""Reader of `nomic_bert` checkpoints: post-norm, rotary, gated, as nomic-ai's code or transformers names it all.

nomic-ai's `config.json` has the words of GPT-2 and flash-attn (`n_embd`, `rotary_emb_base`, `activation_function`).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ufbert.model.config import UltraFastBertConfig

from .bert_family import ACTIVATIONS, read_heads_with
from .bert_heads import ClassifierNames, HeadNames
from .foreign import ForeignConfig, ForeignTensors, Reading
from .rotary import Names, NamesOfTransformers, angles, has_biases, read_gated_encoder

__all__ = ["read"]

OWN_NAMES = Names(
    embedding_norm="emb_ln",
    prefix="encoder.layers.{}.",
    query_key_value=("attn.Wqkv",),
    attention_output="attn.out_proj",
    attention_norm="norm1",
    gate_and_factor=("mlp.fc12", "mlp.fc11"),
    feedforward_out="mlp.fc2",
    feedforward_norm="norm2",
)
HEAD = HeadNames(
    dense="cls.predictions.transform.dense",
    norm="cls.predictions.transform.layer_norm",
    decoder="cls.predictions.decoder",
    bias="cls.predictions.bias",
)
GATED_ACTIVATIONS = {"swiglu": "silu", "geglu": "gelu"}
# Key of nomic-ai's config.json -> the value that our encoder can express, which is its default there, too.
FIXED = {
    **dict.fromkeys(("prenorm", "parallel_block", "use_rms_norm", "causal", "rotary_emb_interleaved"), False),
    **{"rotary_emb_scale_base": None, "head_dim": None},
}


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = next((prefix for prefix in ("nomic_bert.", "bert.") if tensors.has_any(prefix)), "")
    own = tensors.has_any(f"{base}{OWN_NAMES.embedding_norm}.")

    def key(name: str, theirs: str) -> str:
        return theirs if config.get(name) is None and config.get(theirs) is not None else name

    hidden = config.integer(key("hidden_size", "n_embd"))
    heads = config.integer(key("num_attention_heads", "n_head"))
    for name, value in FIXED.items():
        config.require(name, hidden // heads if name == "head_dim" else value)
    config.require("rotary_emb_fraction", 1.0)
    act = "hidden_act" if config.get("activation_function") is None else "activation_function"
    positions = config.integer("max_position_embeddings", config.integer("n_positions", 2048))
    scaled = config.get("rotary_scaling_factor") is not None
    if not scaled:
        positions = max(positions, config.integer("n_positions", positions))  # no table ends them
    elif config.get("max_trained_positions") is not None:
        positions = config.integer("max_trained_positions")
    values: dict[str, Any] = {
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": hidden,
        "num_hidden_layers": config.integer(key("num_hidden_layers", "n_layer")),
        "num_attention_heads": heads,
        "max_position_embeddings": positions,
        "pad_token_id": config.integer("pad_token_id", 0),
        "feedforward": "dense",
        "intermediate_size": config.integer(key("intermediate_size", "n_inner")),
        "hidden_act": config.translate(act, GATED_ACTIVATIONS if act != "hidden_act" else ACTIVATIONS, "silu"),
        "is_gated_act": True,
        "layer_norm_eps": config.number(key("layer_norm_eps", "layer_norm_epsilon"), 1e-12),
        "norm_position": "post",
        "embedding_norm": True,
        "final_norm": False,
        "position_embedding_type": "rotary",
        **angles(config, config.number("rotary_emb_base", 1000.0), hidden // heads),
        "type_vocab_size": config.integer("type_vocab_size", 2),
        "use_bias": has_biases(tensors),
        "hidden_dropout_prob": config.number(key("hidden_dropout_prob", "resid_pdrop"), 0.0),
        "attention_probs_dropout_prob": config.number(key("attention_probs_dropout_prob", "attn_pdrop"), 0.0),
        "initializer_range": config.number("initializer_range", 0.02),
        "architectures": ("UltraFastBertModel",),
    }
    biases = ("cls.predictions.bias", f"{HEAD.decoder}.bias")
    head = HEAD if any(name in tensors for name in biases) else dataclasses.replace(HEAD, bias=None)
    classifier = ClassifierNames(dense=f"{base}pooler.dense", scores="classifier")

    def read_encoder(ours: UltraFastBertConfig) -> dict[str, torch.Tensor]:
        return read_gated_encoder(tensors, ours, OWN_NAMES if own else NamesOfTransformers, base)

    reading = read_heads_with(config, tensors, values, base, read_encoder, head, classifier)
    if scaled:
        reading.stretches = False
        reading.notes.append(
            f"rotary_scaling_factor changes the angles of texts beyond {positions} tokens, which cannot be expressed: "
            "the result takes none longer"
        )
    return reading
