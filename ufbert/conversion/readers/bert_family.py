"""What the readers of BERT's kin share: embeddings, post-norm layers, and what is left behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

from .bert_heads import (
    CLASSIFIER,
    MASKED_LM,
    ClassifierNames,
    HeadNames,
    architectures,
    choose_head,
    classifier_values,
    masked_lm_values,
    read_classifier,
    read_masked_lm_head,
    read_transform,
    shares_dense,
)
from .foreign import ForeignConfig, ForeignTensors, Reading, copy_linear, copy_norm
from .token_classifier import TOKEN_CLASSIFIER, read_token_classifier, token_classifier_values

__all__ = ["ACTIVATIONS", "LayerNames", "finish", "read_embeddings", "read_heads_with", "read_layers", "read_model"]

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
    named, kept = architectures(foreign), config.architectures[0]
    unused = ["pooler."]  # only a classifier reads it
    if kept == MASKED_LM:
        unused.append("cls.seq_relationship.")
    elif kept in (CLASSIFIER, TOKEN_CLASSIFIER) and named:
        unused += PRETRAINING_HEADS
    heads = [n for n in left if not n.removeprefix(base).startswith(tuple(unused))]
    notes: list[str] = []
    if parts := sorted({n.rsplit(".", 1)[0] for n in left if n not in heads}):
        notes.append(f"left behind, as the model does not use it: {', '.join(parts)}")
    if kept == CLASSIFIER and not named:
        notes.append("config.json names no architecture; the classifier in the file is read as one of whole texts")
    wanted = [n for n in named if "For" in n]
    if not heads and wanted and kept not in (MASKED_LM, CLASSIFIER, TOKEN_CLASSIFIER):
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
    elif head == TOKEN_CLASSIFIER:
        values = values | token_classifier_values(config, tensors, values)
        if shares_dense(masked_lm, classifier):
            values = values | {"tagger_transform": True, "head_act": head_act}
    ours = UltraFastBertConfig(**values)
    state = read_encoder(ours)
    if head == MASKED_LM:
        state |= read_masked_lm_head(tensors, ours, masked_lm)
    elif head == CLASSIFIER:
        state |= read_classifier(tensors, ours, classifier)
    elif head == TOKEN_CLASSIFIER:
        state |= read_token_classifier(tensors, ours)
        if ours.tagger_transform:
            state |= read_transform(tensors, ours, masked_lm, "tagger.transform")
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
