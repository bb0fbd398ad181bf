"""Reader of Hugging Face `modernbert` checkpoints: pre-norm, rotary, gated, two of three layers with a local window.

Its `config.json` on the hub names `global_rope_theta`, `local_rope_theta` and `global_attn_every_n_layers`; newer
transformers write `rope_parameters` and `layer_types` for them.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

from .bert_family import ACTIVATIONS, read_heads_with
from .bert_heads import ClassifierNames, HeadNames
from .foreign import ForeignConfig, ForeignTensors, Reading, copy_linear, copy_norm
from .rotary import theta

__all__ = ["read"]

HEAD = HeadNames(dense="head.dense", norm="head.norm", decoder="decoder", bias="decoder.bias")
CLASSIFIER = ClassifierNames(dense="head.dense", scores="classifier", norm="head.norm")
WORD = "embeddings.tok_embeddings.weight"
POOLINGS = {"cls": "first", "mean": "mean"}


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    layers = config.integer("num_hidden_layers")
    config.require("rope_scaling", None)
    whole, local = _thetas(config)
    head_act = config.translate("classifier_activation", ACTIVATIONS, "gelu")
    values: dict[str, Any] = {
        "vocab_size": config.integer("vocab_size"),
        "hidden_size": config.integer("hidden_size"),
        "num_hidden_layers": layers,
        "num_attention_heads": config.integer("num_attention_heads"),
        "max_position_embeddings": config.integer("max_position_embeddings"),
        "pad_token_id": config.integer("pad_token_id", 50283),
        "feedforward": "dense",
        "intermediate_size": config.integer("intermediate_size"),
        "hidden_act": config.translate("hidden_activation", ACTIVATIONS, "gelu"),
        "is_gated_act": True,
        "layer_norm_eps": config.number("norm_eps", 1e-5),
        "norm_bias": bool(config.get("norm_bias", False)),
        "norm_position": "pre",
        "skip_first_prenorm": True,
        "embedding_norm": True,
        "final_norm": True,
        "position_embedding_type": "rotary",
        "rope_theta": whole,
        "local_rope_theta": local,
        "local_attention": config.integer("local_attention", 128),
        "global_attn_every_n_layers": _every(config, layers),
        "use_bias": bool(config.get("attention_bias", False)) or bool(config.get("mlp_bias", False)),
        "hidden_dropout_prob": config.number("mlp_dropout", 0.0),
        "attention_probs_dropout_prob": config.number("attention_dropout", 0.0),
        "initializer_range": config.number("initializer_range", 0.02),
        "architectures": ("UltraFastBertModel",),
    }
    head = HEAD if config.get("decoder_bias", True) else dataclasses.replace(HEAD, bias=None)
    pooling = config.translate("classifier_pooling", POOLINGS, "cls")
    classifier = dataclasses.replace(CLASSIFIER, activation=head_act, pooling=pooling)

    def read_encoder(ours: UltraFastBertConfig) -> dict[str, torch.Tensor]:
        return _encoder(tensors, ours)

    return read_heads_with(config, tensors, values, "", read_encoder, head, classifier, head_act, WORD)


def _thetas(config: ForeignConfig) -> tuple[float, float]:
    """Of the layers that see everything, and of the local ones; a null of the latter is the former's."""
    parameters = config.section("rope_parameters")
    whole = theta(parameters.section("full_attention"), config.number("global_rope_theta", 160_000.0))
    null = "local_rope_theta" in config.values and config.get("local_rope_theta") is None
    local = whole if null else config.number("local_rope_theta", 10_000.0)
    return whole, theta(parameters.section("sliding_attention"), local)


def _every(config: ForeignConfig, layers: int) -> int:
    """Our `global_attn_every_n_layers`."""
    kinds = config.get("layer_types")
    if kinds is None:
        return config.integer("global_attn_every_n_layers", 3)
    found = [index for index in range(1, layers) if kinds[index : index + 1] == ["full_attention"]]
    every = found[0] if found else max(layers, 1)
    if kinds != ["sliding_attention" if index % every else "full_attention" for index in range(layers)]:
        raise CheckpointError(
            f"{config.where}: layer_types is {kinds}; only full_attention in the first of every so many layers and "
            "sliding_attention in the others can be expressed"
        )
    return every


def _encoder(tensors: ForeignTensors, config: UltraFastBertConfig) -> dict[str, torch.Tensor]:
    hidden, inner, biases = config.hidden_size, config.intermediate_size, config.use_bias

    def norm(theirs: str, ours: str) -> dict[str, torch.Tensor]:
        return copy_norm(tensors, theirs, f"encoder.{ours}", hidden, bias=config.norm_bias)

    def linear(theirs: str, ours: str, out: int, into: int) -> dict[str, torch.Tensor]:
        return copy_linear(tensors, theirs, f"encoder.{ours}", out, into, bias=biases)

    state = {"encoder.embeddings.word.weight": tensors.take(WORD, config.vocab_size, hidden)}
    state |= norm("embeddings.norm", "embeddings.norm") | norm("final_norm", "final_norm")
    for index in range(config.num_hidden_layers):
        layer = f"layers.{index}."
        state |= norm(f"{layer}attn_norm", f"{layer}attention_norm") if index else {}
        state |= linear(f"{layer}attn.Wqkv", f"{layer}attention.qkv", 3 * hidden, hidden)
        state |= linear(f"{layer}attn.Wo", f"{layer}attention.output", hidden, hidden)
        state |= norm(f"{layer}mlp_norm", f"{layer}feedforward_norm")
        state |= linear(f"{layer}mlp.Wi", f"{layer}feedforward.linear_in", 2 * inner, hidden)
        state |= linear(f"{layer}mlp.Wo", f"{layer}feedforward.linear_out", hidden, inner)
    return state
