"""What the readers of BERT, RoBERTa and DistilBERT share: post-norm layers, heads, and what is left behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = ["ACTIVATIONS", "HeadNames", "LayerNames", "copy_linear", "copy_norm", "finish", "read_layers"]

# Hugging Face's name of an activation -> ours; those on one line are one function.
ACTIVATIONS = {
    **dict.fromkeys(("gelu", "gelu_python"), "gelu"),
    **dict.fromkeys(("gelu_new", "gelu_pytorch_tanh", "gelu_fast"), "gelu_new"),
    "relu": "relu",
    **dict.fromkeys(("silu", "swish"), "silu"),
}


@dataclass(frozen=True)
class LayerNames:
    """Where a family keeps the parts of layer N, below `prefix` with {} for N."""

    prefix: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    feedforward_in: str
    feedforward_out: str
    feedforward_norm: str


@dataclass(frozen=True)
class HeadNames:
    """Where a family keeps its masked-LM head; `bias` and `decoder` may both hold the decoder's bias."""

    dense: str
    norm: str
    decoder: str
    bias: str


def copy_linear(tensors: ForeignTensors, theirs: str, ours: str, out: int, into: int) -> dict[str, torch.Tensor]:
    """A dense layer's weight (out, into) and bias (out,)."""
    return {
        f"{ours}.weight": tensors.take(f"{theirs}.weight", out, into),
        f"{ours}.bias": tensors.take_bias_of(theirs, out),
    }


def copy_norm(tensors: ForeignTensors, theirs: str, ours: str, size: int) -> dict[str, torch.Tensor]:
    """A LayerNorm's scale and shift."""
    return {f"{ours}.{part}": tensors.take(f"{theirs}.{part}", size) for part in ("weight", "bias")}


def read_layers(
    tensors: ForeignTensors, config: UltraFastBertConfig, names: LayerNames, base: str
) -> dict[str, torch.Tensor]:
    """All layers; `base` is what precedes the encoder's names in this file (`bert.` or nothing)."""
    hidden, inner = config.hidden_size, config.intermediate_size
    state: dict[str, torch.Tensor] = {}
    for index in range(config.num_hidden_layers):
        theirs, ours = base + names.prefix.format(index), f"encoder.layers.{index}."
        parts = [theirs + part for part in (names.query, names.key, names.value)]
        weights = [tensors.take(f"{part}.weight", hidden, hidden) for part in parts]
        state[ours + "attention.qkv.weight"] = torch.cat(weights)
        state[ours + "attention.qkv.bias"] = torch.cat([tensors.take_bias_of(part, hidden) for part in parts])
        state |= copy_linear(tensors, theirs + names.attention_output, ours + "attention.output", hidden, hidden)
        state |= copy_norm(tensors, theirs + names.attention_norm, ours + "attention_norm", hidden)
        state |= copy_linear(tensors, theirs + names.feedforward_in, ours + "feedforward.linear_in", inner, hidden)
        state |= copy_linear(tensors, theirs + names.feedforward_out, ours + "feedforward.linear_out", hidden, inner)
        state |= copy_norm(tensors, theirs + names.feedforward_norm, ours + "feedforward_norm", hidden)
    return state


def masked_lm_values(
    tensors: ForeignTensors, names: HeadNames, word: str, vocabulary: int, hidden: int
) -> dict[str, Any]:
    """Config values of a model with this head; the decoder is tied unless the file holds another matrix."""
    tied = True
    decoder = f"{names.decoder}.weight"
    if decoder in tensors:
        tied = torch.equal(tensors.take(decoder, vocabulary, hidden), tensors.take(word, vocabulary, hidden))
    return {
        "head_transform": True,
        "decoder_bias": True,
        "tie_word_embeddings": tied,
        "architectures": ("UltraFastBertForMaskedLM",),
    }


def read_masked_lm_head(
    tensors: ForeignTensors, config: UltraFastBertConfig, names: HeadNames
) -> dict[str, torch.Tensor]:
    """Transform, decoder bias and, if untied, the decoder's matrix."""
    hidden, vocabulary = config.hidden_size, config.vocab_size
    state = copy_linear(tensors, names.dense, "transform.dense", hidden, hidden)
    state |= copy_norm(tensors, names.norm, "transform.norm", hidden)
    tensors.skip(f"{names.decoder}.bias")
    bias = names.bias if names.bias in tensors else f"{names.decoder}.bias"
    state["decoder.bias"] = tensors.take(bias, vocabulary)
    if not config.tie_word_embeddings:
        state["decoder.weight"] = tensors.take(f"{names.decoder}.weight", vocabulary, hidden)
    return state


def classifier_values(
    config: ForeignConfig, tensors: ForeignTensors, scores: str, hidden: int
) -> dict[str, Any] | None:
    """Config values of a one-sequence classifier, or None if the scores mean something else."""
    labels = tensors.rows(f"{scores}.weight")
    if config.get("problem_type") == "multi_label_classification":
        return None
    names = config.get("id2label")
    values: dict[str, Any] = {
        "classifier_pooling": "first",
        "classifier_hidden_size": hidden,
        "num_labels": labels,
        "problem_type": "regression" if labels == 1 else "single_label_classification",
        "architectures": ("UltraFastBertForSequenceClassification",),
    }
    dropout = config.get("classifier_dropout")
    values["classifier_dropout"] = config.number("hidden_dropout_prob", 0.1) if dropout is None else float(dropout)
    if isinstance(names, dict) and sorted(map(str, names)) == sorted(map(str, range(labels))):
        values["id2label"] = {int(k): str(v) for k, v in names.items()}
    return values


def read_classifier(
    tensors: ForeignTensors, config: UltraFastBertConfig, dense: str, scores: str
) -> dict[str, torch.Tensor]:
    """First token -> dense -> tanh -> scores."""
    hidden = config.hidden_size
    state = copy_linear(tensors, dense, "classifier.dense", hidden, hidden)
    return state | copy_linear(tensors, scores, "classifier.scores", config.num_labels, hidden)


def finish(
    config: UltraFastBertConfig, state: dict[str, torch.Tensor], tensors: ForeignTensors, base: str, notes: list[str]
) -> Reading:
    """Account for every tensor: buffers hold nothing, heads are named, anything in the layers is an error."""
    left = [n for n in tensors.unread() if not n.endswith(("position_ids", "token_type_ids"))]
    inside = [n for n in left if n.removeprefix(base).startswith(("embeddings.", "encoder.", "transformer."))]
    if inside:
        raise CheckpointError(f"{tensors.file}: holds {inside[0]}, which this encoder has no place for")
    if left:
        parts = sorted({n.rsplit(".", 1)[0] for n in left})
        notes.append(f"left behind, as this model has no such head: {', '.join(parts)}")
    return Reading(config, state, notes)
