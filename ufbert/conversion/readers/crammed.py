"""Reader of `crammedBERT` checkpoints, as the authors of UltraFastBERT and of cramming publish them.

The architecture stands in `config.json` under `arch`. Attention's query, key and value are one matrix laid
out per head, (heads, 3, head size) rows; a fast feedforward layer is `ffn.linear_in` and `ffn.linear_out`,
a dense one `ffn.dense_in` and `ffn.dense_out`.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from ufbert.cmm.tree import check_shape, node_count
from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = ["read"]

ACTIVATIONS = {"GELU": "gelu", "ReLU": "relu", "SiLU": "silu"}
NORMS = {"LayerNorm": "LayerNorm", "ApexLayerNorm": "LayerNorm"}
POOLING = {"avg": "mean", "zero_index": "first"}
WORD = "encoder.embedding.word_embedding.weight"


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    arch = _architecture(config)
    headless = not tensors.has_any("encoder.")
    if headless:  # the authors' encoder class, saved without a model around it
        tensors.add_prefix("encoder.")
    notes: list[str] = []
    left: list[str] = []
    embedding, attention = arch.section("embedding"), arch.section("attention")
    _check_expressible(arch, embedding, attention)

    # The tied matrix is stored under either name, or under both.
    if WORD not in tensors and "decoder.weight" not in tensors:
        raise CheckpointError(f"{tensors.file}: lacks both {WORD} and decoder.weight; is the checkpoint complete?")
    hidden = arch.integer("hidden_size")
    vocabulary = embedding.integer("vocab_size")
    word = tensors.take(WORD if WORD in tensors else "decoder.weight", vocabulary, hidden)
    tied = True
    if "decoder.weight" in tensors and WORD in tensors:
        tied = torch.equal(word, tensors.take("decoder.weight", vocabulary, hidden))

    fast = arch.get("intermed_type", "ff") == "fff"
    classifies = "head.weight" in tensors
    values: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": arch.integer("num_transformer_layers"),
        "num_attention_heads": attention.integer("num_attention_heads"),
        "max_position_embeddings": embedding.integer("max_seq_length"),
        "pad_token_id": embedding.integer("pad_token_id", 0),
        "feedforward": "fff" if fast else "dense",
        "hidden_act": arch.translate("nonlin", ACTIVATIONS, "GELU"),
        "layer_norm_eps": arch.number("norm_eps", 1e-12),
        "norm_position": "pre",
        "embedding_norm": bool(embedding.get("normalization", True)),
        "final_norm": bool(arch.get("final_norm", True)),
        "position_embedding_type": ("absolute" if embedding.get("pos_embedding") == "learned" else "scaled-sinusoidal"),
        "use_bias": bool(arch.get("use_bias", False)) or bool(attention.get("qkv_bias", False)),
        "head_transform": not classifies and not arch.get("skip_head_transform", True),
        "decoder_bias": not classifies and bool(arch.get("decoder_bias", False)),
        "tie_word_embeddings": tied,
        "hidden_dropout_prob": arch.number("hidden_dropout_prob", 0.1),
        "attention_probs_dropout_prob": attention.number("dropout_prob", 0.1),
        "initializer_range": arch.section("init").number("std", 0.02),
        "architectures": ("UltraFastBertModel" if headless else "UltraFastBertForMaskedLM",),
    }
    if fast:
        values |= {"trees": arch.integer("intermed_size"), "depth": arch.integer("intermed_depth")}
        check_shape(hidden, values["trees"], values["depth"])
    else:
        values["intermediate_size"] = arch.integer("intermed_size")

    state = {"encoder.embeddings.word.weight": word}
    head: dict[str, torch.Tensor] = {}
    if classifies:
        head = _read_classifier(arch, tensors, values, notes, left)
    draft = UltraFastBertConfig(**values)
    state |= _read_embeddings(embedding, tensors, draft)
    for index in range(draft.num_hidden_layers):
        state |= _read_layer(tensors, draft, index)
    if draft.final_norm:
        state |= _norm(tensors, "encoder.final_norm", "encoder.final_norm", hidden)
    if head:
        state |= head
    elif values["architectures"] == ("UltraFastBertForMaskedLM",):
        state |= _read_masked_lm_head(tensors, draft)
        if not tied:
            state["decoder.weight"] = tensors.take("decoder.weight", vocabulary, hidden)
    others = _other_heads(tensors)
    pretraining = [name for name in others if head and name.startswith(("decoder.", "prediction_head."))]
    if pretraining:
        notes.append(f"left behind, as the model does not use it: {', '.join(pretraining)}")
    left += [name for name in others if name not in pretraining]
    return Reading(draft, state, notes, left)


def _architecture(config: ForeignConfig) -> ForeignConfig:
    """The `arch` object, with OmegaConf's `${...}` references resolved, should they have been saved unresolved."""
    arch = config.get("arch") or config.get("cfg_arch_container")
    if not isinstance(arch, dict) or not arch:
        raise CheckpointError(f"{config.where}: has no arch object, which a crammedBERT checkpoint describes itself in")
    where = f"{config.where}: arch"

    def lookup(path: str) -> Any:
        value: Any = arch
        for part in path.removeprefix("arch.").split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            raise CheckpointError(f"{where}: refers to ${{{path}}}, which is not there")
        return value

    def resolve(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: resolve(v) for k, v in value.items()}
        if isinstance(value, str) and (reference := re.fullmatch(r"\$\{\.*([\w.]+)\}", value)):
            return lookup(reference[1])
        return value

    return ForeignConfig(resolve(arch), where)


def _check_expressible(arch: ForeignConfig, embedding: ForeignConfig, attention: ForeignConfig) -> None:
    arch.translate("norm", NORMS, "LayerNorm")
    arch.require("norm_scheme", "pre")
    arch.require("ffn_layer_frequency", 1)
    arch.translate("intermed_type", {"ff": "dense", "fff": "fff"}, "ff")
    if arch.get("intermed_type") == "fff":
        arch.require("nonlin", "GELU")
    attention.require("type", "self-attention")
    attention.require("sequence_op", "torch-softmax")
    for name in ("causal_attention", "rotary_embedding", "skip_output_projection"):
        attention.require(name, False)
    embedding.require("embedding_dim", arch.integer("hidden_size"))
    embedding.translate(
        "pos_embedding",
        {"scaled-sinusoidal": "scaled", "sinusoidal": "fixed", "learned": "absolute", "none": "none"},
        "none",
    )


def _read_embeddings(
    embedding: ForeignConfig, tensors: ForeignTensors, config: UltraFastBertConfig
) -> dict[str, torch.Tensor]:
    hidden = config.hidden_size
    state: dict[str, torch.Tensor] = {}
    kind = embedding.get("pos_embedding", "none")
    if kind == "learned":
        state["encoder.embeddings.position.weight"] = tensors.take(
            "encoder.embedding.pos_embedding.embedding.weight", config.max_position_embeddings, hidden
        )
    elif kind == "scaled-sinusoidal":
        state["encoder.embeddings.position_scale"] = tensors.take("encoder.embedding.pos_embedding.scale_factor", 1)
    else:  # a fixed table is one of scale 1, none at all one of scale 0
        state["encoder.embeddings.position_scale"] = torch.tensor([1.0 if kind == "sinusoidal" else 0.0])
    if config.embedding_norm:
        state |= _norm(tensors, "encoder.embedding.norm", "encoder.embeddings.norm", hidden)
    return state


def _read_layer(tensors: ForeignTensors, config: UltraFastBertConfig, index: int) -> dict[str, torch.Tensor]:
    hidden, heads = config.hidden_size, config.num_attention_heads
    theirs, ours = f"encoder.layers.{index}.", f"encoder.layers.{index}."
    fused = theirs + "attn.self_attention.query_key_value"
    state = {
        ours + "attention.qkv.weight": by_part(tensors.take(fused + ".weight", 3 * hidden, hidden), heads),
        ours + "attention.output.weight": tensors.take(theirs + "attn.dense.weight", hidden, hidden),
    }
    if config.use_bias:
        state[ours + "attention.qkv.bias"] = by_part(tensors.take_bias_of(fused, 3 * hidden), heads)
        state[ours + "attention.output.bias"] = tensors.take_bias_of(theirs + "attn.dense", hidden)
    state |= _norm(tensors, theirs + "norm1", ours + "attention_norm", hidden)
    state |= _norm(tensors, theirs + "norm2", ours + "feedforward_norm", hidden)
    if config.feedforward == "fff":
        trees, nodes = config.trees, node_count(config.depth)
        w_in = tensors.take(theirs + "ffn.linear_in.weight", trees * nodes, hidden)
        w_out = tensors.take(theirs + "ffn.linear_out.weight", hidden, trees * nodes)
        b_in = tensors.take_bias_of(theirs + "ffn.linear_in", trees * nodes)
        state[ours + "feedforward.w_in"] = w_in.reshape(trees, nodes, hidden)
        state[ours + "feedforward.b_in"] = b_in.reshape(trees, nodes)
        state[ours + "feedforward.w_out"] = w_out.T.reshape(trees, nodes, hidden)
        if config.use_bias:
            state[ours + "feedforward.b_out"] = tensors.take_bias_of(theirs + "ffn.linear_out", hidden)
        return state
    for part, out_size, in_size in (
        ("in", config.intermediate_size, hidden),
        ("out", hidden, config.intermediate_size),
    ):
        name = f"{theirs}ffn.dense_{part}"
        state[f"{ours}feedforward.linear_{part}.weight"] = tensors.take(name + ".weight", out_size, in_size)
        if config.use_bias:
            state[f"{ours}feedforward.linear_{part}.bias"] = tensors.take_bias_of(name, out_size)
    return state


def by_part(fused: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows (heads, 3, head size, ...) -> (3, heads, head size, ...), flattened: all of q, then k, then v."""
    per_head = fused.reshape(heads, 3, fused.shape[0] // (3 * heads), *fused.shape[1:])
    return per_head.transpose(0, 1).reshape(fused.shape).contiguous()


def _read_masked_lm_head(tensors: ForeignTensors, config: UltraFastBertConfig) -> dict[str, torch.Tensor]:
    hidden = config.hidden_size
    state: dict[str, torch.Tensor] = {}
    if config.head_transform:
        state["transform.dense.weight"] = tensors.take("prediction_head.dense.weight", hidden, hidden)
        state["transform.dense.bias"] = tensors.take_bias_of("prediction_head.dense", hidden)
        state |= _norm(tensors, "prediction_head.norm", "transform.norm", hidden)
    if config.decoder_bias:
        state["decoder.bias"] = tensors.take("decoder.bias", config.vocab_size)
    return state


def _read_classifier(
    arch: ForeignConfig, tensors: ForeignTensors, values: dict[str, Any], notes: list[str], left: list[str]
) -> dict[str, torch.Tensor]:
    """The finetuned head, if ours can express it; else nothing, its tensors in `left`, and a bare encoder."""
    head = arch.section("classification_head")
    if not (head.get("include_ff_layer", True) and head.get("nonlin") == "Tanh" and head.get("pooler") in POOLING):
        names = ("pooler.dense.weight", "pooler.dense.bias", "head.weight", "head.bias")
        left += [name for name in names if name in tensors]
        tensors.skip(*names)
        values["architectures"] = ("UltraFastBertModel",)
        return {}
    hidden, width, labels = values["hidden_size"], head.integer("head_dim"), arch.integer("num_labels")
    values |= {
        "classifier_pooling": POOLING[head.get("pooler")],
        "classifier_hidden_size": width,
        "classifier_dropout": head.number("classifier_dropout", 0.1),
        "num_labels": labels,
        "problem_type": "regression" if labels == 1 else "single_label_classification",
        "architectures": ("UltraFastBertForSequenceClassification",),
    }
    if head.get("pooler") == "avg":
        notes.append("the original head averages padding too, this one leaves it out: equal on unpadded texts")
    return {
        "classifier.dense.weight": tensors.take("pooler.dense.weight", width, hidden),
        "classifier.dense.bias": tensors.take("pooler.dense.bias", width),
        "classifier.scores.weight": tensors.take("head.weight", labels, width),
        "classifier.scores.bias": tensors.take("head.bias", labels),
    }


def _norm(tensors: ForeignTensors, theirs: str, ours: str, size: int) -> dict[str, torch.Tensor]:
    return {f"{ours}.{part}": tensors.take(f"{theirs}.{part}", size) for part in ("weight", "bias")}


def _other_heads(tensors: ForeignTensors) -> list[str]:
    """What no part of our model uses; buffers hold nothing, and anything within the encoder is an error."""
    buffers = ("norm_factor", "position_ids", ".pe", "inv_freq")
    left = [name for name in tensors.unread() if not name.endswith(buffers)]
    heads = [name for name in left if not name.startswith("encoder.")]
    if inside := sorted(set(left) - set(heads)):
        raise CheckpointError(f"{tensors.file}: holds {inside[0]}, which this encoder has no place for")
    return heads
