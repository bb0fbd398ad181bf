"""What the readers of BERT's kin share: post-norm layers, heads, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = [
    "ACTIVATIONS",
    "CLASSIFIER",
    "MASKED_LM",
    "ClassifierNames",
    "HeadNames",
    "LayerNames",
    "choose_head",
    "classifier_values",
    "copy_linear",
    "copy_norm",
    "finish",
    "masked_lm_values",
    "read_classifier",
    "read_embeddings",
    "read_heads_with",
    "read_layers",
    "read_masked_lm_head",
    "read_model",
]

MASKED_LM, CLASSIFIER = "UltraFastBertForMaskedLM", "UltraFastBertForSequenceClassification"
WORD_EMBEDDINGS = "embeddings.word_embeddings.weight"
ENCODER_PARTS = ("embeddings", "emb_ln.", "encoder.", "transformer.", "layers.", "final_norm.")
PRETRAINING_HEADS = ("cls.", "lm_head.", "vocab_", "generator_", "discriminator_")
"""What a file may still hold of the pretraining of a model that has been finetuned since."""

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
    bias: str | None
    """None where the decoder has no bias."""


@dataclass(frozen=True)
class ClassifierNames:
    """Where a family keeps its classifier of texts, and what is fixed in it."""

    dense: str
    scores: str
    activation: str = "tanh"
    dropout: str = "classifier_dropout"
    """Key in config.json."""
    norm: str | None = None
    """The LayerNorm behind the activation, if there is one."""
    pooling: str = "first"
    """Our `classifier_pooling`."""


def copy_linear(
    tensors: ForeignTensors, theirs: str, ours: str, out: int, into: int, *, bias: bool = True
) -> dict[str, torch.Tensor]:
    """A dense layer's weight (out, into) and, unless ours has none, bias (out,)."""
    weight = {f"{ours}.weight": tensors.take(f"{theirs}.weight", out, into)}
    return weight | ({f"{ours}.bias": tensors.take_bias_of(theirs, out)} if bias else {})


def copy_norm(
    tensors: ForeignTensors, theirs: str, ours: str, size: int, *, bias: bool = True
) -> dict[str, torch.Tensor]:
    """A LayerNorm's scale and, unless ours has none, shift."""
    parts = ("weight", "bias") if bias else ("weight",)
    return {f"{ours}.{part}": tensors.take(f"{theirs}.{part}", size) for part in parts}


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
    tensors: ForeignTensors, names: HeadNames, word: str, values: Mapping[str, Any], head_act: str | None = None
) -> dict[str, Any]:
    """Config values of a model with this head; the decoder is tied unless the file holds another matrix.

    `values` are those of the encoder, `head_act` the head's activation where it is not the layers'.
    """
    vocabulary, width = values["vocab_size"], values.get("embedding_size") or values["hidden_size"]
    tied = True
    decoder = f"{names.decoder}.weight"
    if decoder in tensors:
        tied = torch.equal(tensors.take(decoder, vocabulary, width), tensors.take(word, vocabulary, width))
    return {
        "head_transform": True,
        "head_act": None if head_act == values["hidden_act"] else head_act,
        "decoder_bias": names.bias is not None,
        "tie_word_embeddings": tied,
        "architectures": (MASKED_LM,),
    }


def read_masked_lm_head(
    tensors: ForeignTensors, config: UltraFastBertConfig, names: HeadNames
) -> dict[str, torch.Tensor]:
    """Transform, decoder bias and, if untied, the decoder's matrix."""
    width, vocabulary = config.embedding_width, config.vocab_size
    state = copy_linear(tensors, names.dense, "transform.dense", width, config.hidden_size)
    state |= copy_norm(tensors, names.norm, "transform.norm", width, bias=config.norm_bias)
    if names.bias is not None:
        tensors.skip(f"{names.decoder}.bias")
        bias = names.bias if names.bias in tensors else f"{names.decoder}.bias"
        state["decoder.bias"] = tensors.take(bias, vocabulary)
    if not config.tie_word_embeddings:
        state["decoder.weight"] = tensors.take(f"{names.decoder}.weight", vocabulary, width)
    return state


def choose_head(
    config: ForeignConfig, tensors: ForeignTensors, masked_lm: HeadNames, classifier: ClassifierNames
) -> str | None:
    """The class of ours whose head the checkpoint has: what `architectures` names first, else what the file holds."""
    named = _architectures(config)
    classifies = f"{classifier.dense}.weight" in tensors and f"{classifier.scores}.weight" in tensors
    if classifies and any("SequenceClassification" in name for name in named):
        return CLASSIFIER
    # ModernBERT's classifiers have the masked LM's dense layer.
    shared = masked_lm.dense == classifier.dense and f"{classifier.scores}.weight" in tensors
    if f"{masked_lm.dense}.weight" in tensors and not shared:
        return MASKED_LM
    # Token classifiers and multiple choice call their scores the same, but they name themselves.
    return CLASSIFIER if classifies and not named else None


def _architectures(config: ForeignConfig) -> list[str]:
    return [str(name) for name in config.get("architectures", [])]


def classifier_values(
    config: ForeignConfig, tensors: ForeignTensors, names: ClassifierNames, values: Mapping[str, Any]
) -> dict[str, Any]:
    """Config values of a classifier of texts; `values` are those of the encoder."""
    labels = tensors.rows(f"{names.scores}.weight")
    problem = config.get("problem_type")
    if problem is None and labels == 1 and config.get("finetuning_task") in ("sts-b", "stsb"):
        problem = "regression"  # before configs named it
    if problem is None and labels > 1:
        problem = "single_label_classification"
    dropout = config.get(names.dropout)
    read: dict[str, Any] = {
        "classifier_pooling": names.pooling,
        "classifier_hidden_size": values["hidden_size"],
        "classifier_act": names.activation,
        "classifier_norm": names.norm is not None,
        "classifier_dropout": values["hidden_dropout_prob"] if dropout is None else config.number(names.dropout),
        "num_labels": labels,
        "problem_type": problem,
        "architectures": (CLASSIFIER,),
    }
    if labels == 1 and problem not in ("regression", "multi_label_classification"):
        read["score_activation"] = "sigmoid"  # what transformers' pipeline and sentence-transformers make of one score
    label_names = config.get("id2label")
    if isinstance(label_names, dict) and sorted(map(str, label_names)) == sorted(map(str, range(labels))):
        read["id2label"] = {int(k): str(v) for k, v in label_names.items()}
    return read


def read_classifier(
    tensors: ForeignTensors, config: UltraFastBertConfig, names: ClassifierNames
) -> dict[str, torch.Tensor]:
    """Pooled states -> dense -> activation -> norm, if there is one -> scores."""
    hidden = config.hidden_size
    state = copy_linear(tensors, names.dense, "classifier.dense", hidden, hidden)
    if names.norm is not None:
        state |= copy_norm(tensors, names.norm, "classifier.norm", hidden, bias=config.norm_bias)
    return state | copy_linear(tensors, names.scores, "classifier.scores", config.num_labels, hidden)


def finish(
    config: UltraFastBertConfig,
    state: dict[str, torch.Tensor],
    tensors: ForeignTensors,
    base: str,
    foreign: ForeignConfig,
) -> Reading:
    """Account for every tensor: buffers hold nothing, heads are named, anything in the layers is an error."""
    left = [n for n in tensors.unread() if not n.endswith(("position_ids", "token_type_ids", "inv_freq"))]
    inside = [n for n in left if n.removeprefix(base).startswith(ENCODER_PARTS)]
    if inside:
        raise CheckpointError(f"{tensors.file}: holds {inside[0]}, which this encoder has no place for")
    named, kept = _architectures(foreign), config.architectures[0]
    unused = ["pooler."]  # only a classifier reads it
    if kept == MASKED_LM:
        unused.append("cls.seq_relationship.")
    elif kept == CLASSIFIER and named:
        unused += PRETRAINING_HEADS
    heads = [n for n in left if not n.removeprefix(base).startswith(tuple(unused))]
    notes: list[str] = []
    if parts := sorted({n.rsplit(".", 1)[0] for n in left if n not in heads}):
        notes.append(f"left behind, as the model does not use it: {', '.join(parts)}")
    if kept == CLASSIFIER and not named:
        notes.append("config.json names no architecture; the classifier in the file is read as one of whole texts")
    wanted = [n for n in named if "For" in n]
    if not heads and wanted and kept not in (MASKED_LM, CLASSIFIER):
        notes.append(f"config.json names {wanted[0]}, but the file holds no such head: the result is the encoder alone")
    return Reading(config, state, notes, heads, stretches=config.position_embedding_type == "rotary")


def read_model(
    config: ForeignConfig,
    tensors: ForeignTensors,
    values: dict[str, Any],
    base: str,
    layers: LayerNames,
    masked_lm: HeadNames,
    classifier: ClassifierNames,
    head_act: str | None = None,
) -> Reading:
    """A whole model with BERT's embeddings and layers: `values` are our config's for its encoder, the rest names.

    `head_act` is the activation that the family's masked-LM head has whatever the layers have.
    """

    def read_encoder(ours: UltraFastBertConfig) -> dict[str, torch.Tensor]:
        return read_embeddings(tensors, ours, base) | read_layers(tensors, ours, layers, base)

    return read_heads_with(config, tensors, values, base, read_encoder, masked_lm, classifier, head_act)


def read_heads_with(
    config: ForeignConfig,
    tensors: ForeignTensors,
    values: dict[str, Any],
    base: str,
    read_encoder: Callable[[UltraFastBertConfig], dict[str, torch.Tensor]],
    masked_lm: HeadNames,
    classifier: ClassifierNames,
    head_act: str | None = None,
    word: str = WORD_EMBEDDINGS,
) -> Reading:
    """As `read_model`, with the family's own way to read its encoder; `word` is the embedding below `base`."""
    head = choose_head(config, tensors, masked_lm, classifier)
    if head == MASKED_LM:
        values = values | masked_lm_values(tensors, masked_lm, base + word, values, head_act)
    elif head == CLASSIFIER:
        values = values | classifier_values(config, tensors, classifier, values)
    ours = UltraFastBertConfig(**values)
    state = read_encoder(ours)
    if head == MASKED_LM:
        state |= read_masked_lm_head(tensors, ours, masked_lm)
    elif head == CLASSIFIER:
        state |= read_classifier(tensors, ours, classifier)
    return finish(ours, state, tensors, base, config)


def read_embeddings(tensors: ForeignTensors, config: UltraFastBertConfig, base: str) -> dict[str, torch.Tensor]:
    """Word, position and token-type tables, their norm, and what projects them to the hidden size."""
    width, theirs, ours = config.embedding_width, f"{base}embeddings.", "encoder.embeddings."
    rows = config.max_position_embeddings + config.position_offset
    state = {
        ours + "word.weight": tensors.take(base + WORD_EMBEDDINGS, config.vocab_size, width),
        ours + "position.weight": tensors.take(theirs + "position_embeddings.weight", rows, width),
    }
    if config.type_vocab_size:
        name = theirs + "token_type_embeddings.weight"
        state[ours + "token_type.weight"] = tensors.take(name, config.type_vocab_size, width)
    state |= copy_norm(tensors, theirs + "LayerNorm", ours + "norm", width)
    if config.embedding_size is not None:
        projection = f"{base}embeddings_project"
        state |= copy_linear(tensors, projection, ours + "projection", config.hidden_size, width)
    return state
