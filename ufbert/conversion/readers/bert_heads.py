"""The heads of BERT's kin: which one a checkpoint has, and where its parts are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ufbert.model.config import UltraFastBertConfig

from .foreign import ForeignConfig, ForeignTensors, copy_linear, copy_norm
from .token_classifier import TOKEN_CLASSIFIER, tags_tokens

__all__ = [
    "CLASSIFIER",
    "MASKED_LM",
    "ClassifierNames",
    "HeadNames",
    "architectures",
    "choose_head",
    "classifier_values",
    "masked_lm_values",
    "read_classifier",
    "read_masked_lm_head",
    "read_transform",
    "shares_dense",
]

MASKED_LM, CLASSIFIER = "UltraFastBertForMaskedLM", "UltraFastBertForSequenceClassification"


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


def choose_head(
    config: ForeignConfig, tensors: ForeignTensors, masked_lm: HeadNames, classifier: ClassifierNames
) -> str | None:
    """The class of ours whose head the checkpoint has: what `architectures` names first, else what the file holds."""
    named = architectures(config)
    classifies = f"{classifier.dense}.weight" in tensors and f"{classifier.scores}.weight" in tensors
    if classifies and any("SequenceClassification" in name for name in named):
        return CLASSIFIER
    if tags_tokens(named, tensors):
        return TOKEN_CLASSIFIER
    # ModernBERT's classifiers have the masked LM's dense layer.
    shared = shares_dense(masked_lm, classifier) and f"{classifier.scores}.weight" in tensors
    if f"{masked_lm.dense}.weight" in tensors and not shared:
        return MASKED_LM
    # Multiple choice calls its scores the same, but it names itself.
    return CLASSIFIER if classifies and not named else None


def shares_dense(masked_lm: HeadNames, classifier: ClassifierNames) -> bool:
    """Whether one dense layer is the first of either head."""
    return masked_lm.dense == classifier.dense


def architectures(config: ForeignConfig) -> list[str]:
    """The classes that config.json names."""
    return [str(name) for name in config.get("architectures", [])]


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


def read_transform(
    tensors: ForeignTensors, config: UltraFastBertConfig, names: HeadNames, ours: str
) -> dict[str, torch.Tensor]:
    """`HeadTransform` as our `ours`."""
    width = config.embedding_width
    state = copy_linear(tensors, names.dense, f"{ours}.dense", width, config.hidden_size)
    return state | copy_norm(tensors, names.norm, f"{ours}.norm", width, bias=config.norm_bias)


def read_masked_lm_head(
    tensors: ForeignTensors, config: UltraFastBertConfig, names: HeadNames
) -> dict[str, torch.Tensor]:
    """Transform, decoder bias and, if untied, the decoder's matrix."""
    width, vocabulary = config.embedding_width, config.vocab_size
    state = read_transform(tensors, config, names, "transform")
    if names.bias is not None:
        tensors.skip(names.bias)
        # Where both are there and differ, transformers has not tied them, and it is the decoder's own that it adds.
        own = f"{names.decoder}.bias"
        state["decoder.bias"] = tensors.take(own if own in tensors else names.bias, vocabulary)
    if not config.tie_word_embeddings:
        state["decoder.weight"] = tensors.take(f"{names.decoder}.weight", vocabulary, width)
    return state


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
