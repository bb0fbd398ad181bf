"""Our dense models as Hugging Face checkpoints, which `transformers` loads and computes the same from.

Post-norm models become `bert` (or `roberta`, where positions start after the padding's row), pre-norm ones
with a final norm `roberta-prelayernorm`; fixed positions become a table. Trees of depth 0 are dense layers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from ufbert.checkpoint.sentence_transformers import write_embedding_facts
from ufbert.checkpoint.tokenizer import save_tokenizer
from ufbert.conversion.readers.checkpoint import encoder_of
from ufbert.errors import CheckpointError
from ufbert.model.attention import SelfAttention
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import DenseFeedforward, Layer
from ufbert.model.fff import FFF
from ufbert.model.heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.model.pretrained import PretrainedModel

__all__ = ["nearest_config", "write_hugging_face"]


@dataclass(frozen=True)
class _Target:
    """A model type of transformers and the names that differ between the three."""

    model_type: str
    class_prefix: str
    base: str
    attention_norm: str
    feedforward_norm: str


_BERT = _Target("bert", "Bert", "bert.", "attention.output.LayerNorm", "output.LayerNorm")
_ROBERTA = _Target("roberta", "Roberta", "roberta.", "attention.output.LayerNorm", "output.LayerNorm")
_PRE_NORM = _Target(
    "roberta-prelayernorm",
    "RobertaPreLayerNorm",
    "roberta_prelayernorm.",
    "attention.LayerNorm",
    "intermediate.LayerNorm",
)


def _target(config: UltraFastBertConfig, name: str) -> _Target:
    if config.feedforward == "fff" and config.depth > 0:
        raise CheckpointError(
            f"{name}: has trees of depth {config.depth}; which neurons a token uses depends on the token, so no dense "
            "network computes the same (only depth 0 is dense); --to onnx writes the trees themselves"
        )
    if config.feedforward == "none":
        raise CheckpointError(f"{name}: has no feedforward layers; every BERT-family class of transformers has them")
    if not config.embedding_norm:
        raise CheckpointError(
            f"{name}: has no norm after the embeddings; no BERT-family class of transformers lacks it"
        )
    if config.norm_position == "pre":
        if config.final_norm:
            return _PRE_NORM
        raise CheckpointError(f"{name}: is pre-norm without a final norm; no BERT-family class of transformers is")
    if config.final_norm:
        raise CheckpointError(f"{name}: is post-norm with a final norm; no BERT-family class of transformers is")
    return _ROBERTA if config.position_offset else _BERT


def write_hugging_face(model: PretrainedModel, tokenizer: Tokenizer | None, folder: Path, name: str) -> list[str]:
    """Fill an existing folder with config, weights and tokenizer; returns notes on what was left behind.

    Raises `CheckpointError` unless a dense network of transformers computes the same function.
    """
    config = model.config
    target = _target(config, name)
    notes: list[str] = []
    state = _encoder_state(model, config, target)
    head, architecture = _head_state(model, config, target, notes)
    if head:
        state = {target.base + key: tensor for key, tensor in state.items()} | head
    values = _config_values(config, target, architecture)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder, config.max_position_embeddings)
    write_embedding_facts(config.provenance, config.hidden_size, folder)
    return notes


def nearest_config(model: PretrainedModel) -> dict[str, Any]:
    """A `config.json` in the terms of `transformers` for whoever reads sizes and labels, not weights.

    The model type is one that every installation knows: the one of `write_hugging_face` or, for what no class of
    transformers computes, BERT's or RoBERTa's, with fields of ours that say what the feedforward layers are.
    """
    config = model.config
    try:
        target = _target(config, "")
    except CheckpointError:
        target = _ROBERTA if config.position_offset else _BERT
    architectures = {
        UltraFastBertForMaskedLM: "ForMaskedLM",
        UltraFastBertForSequenceClassification: "ForSequenceClassification",
    }
    values = _config_values(config, target, architectures.get(type(model), "Model"))
    if config.feedforward != "dense":
        values["feedforward"] = config.feedforward
    if config.feedforward == "fff":
        values |= {"trees": config.trees, "depth": config.depth}
    return values


def _config_values(config: UltraFastBertConfig, target: _Target, architecture: str) -> dict[str, Any]:
    dense = config.feedforward == "dense"
    values: dict[str, Any] = {
        "model_type": target.model_type,
        "architectures": [target.class_prefix + architecture],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.neurons_available,
        "hidden_act": config.hidden_act if dense else "gelu",
        "max_position_embeddings": config.max_position_embeddings + _offset(config, target),
        "type_vocab_size": _type_rows(config, target),
        "pad_token_id": config.pad_token_id,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
        "classifier_dropout": config.classifier_dropout,
        "initializer_range": config.initializer_range,
        "position_embedding_type": "absolute",
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": "float32",
    }
    if architecture == "ForSequenceClassification":
        values |= {
            "id2label": {str(i): label for i, label in enumerate(config.label_names)},
            "label2id": {label: i for i, label in enumerate(config.label_names)},
            # Without it transformers' pipeline squashes one score, which to us is a value.
            "problem_type": "regression" if config.regression else config.problem_type,
        }
    return values


def _offset(config: UltraFastBertConfig, target: _Target) -> int:
    """Rows of the position table before the first token's: RoBERTa's classes number from the padding's id."""
    return 0 if target is _BERT else config.pad_token_id + 1


def _type_rows(config: UltraFastBertConfig, target: _Target) -> int:
    """These classes always add a token type; where ours has none, rows of zeros take its place."""
    return config.type_vocab_size or (2 if target is _BERT else 1)


def _encoder_state(model: PretrainedModel, config: UltraFastBertConfig, target: _Target) -> dict[str, torch.Tensor]:
    encoder = encoder_of(model)
    embeddings = encoder.embeddings
    hidden = config.hidden_size
    if config.position_embedding_type == "absolute":
        positions = embeddings.position.weight[config.position_offset :]
    else:
        positions = embeddings.position_scale * embeddings.positions
    padding = torch.zeros(_offset(config, target), hidden)
    types = embeddings.token_type.weight if config.type_vocab_size else torch.zeros(_type_rows(config, target), hidden)
    assert embeddings.norm is not None
    state = {
        "embeddings.word_embeddings.weight": embeddings.word.weight,
        "embeddings.position_embeddings.weight": torch.cat([padding, positions]),
        "embeddings.token_type_embeddings.weight": types,
        **_norm("embeddings.LayerNorm", embeddings.norm),
    }
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        state |= {f"encoder.layer.{index}.{key}": t for key, t in _layer_state(layer, target).items()}
    if encoder.final_norm is not None:
        state |= _norm("LayerNorm", encoder.final_norm)
    return state


def _layer_state(layer: Layer, target: _Target) -> dict[str, torch.Tensor]:
    attention: SelfAttention = layer.attention
    assert layer.feedforward_norm is not None
    weights = attention.qkv.weight.chunk(3)
    biases = _bias(attention.qkv).chunk(3)
    state = {
        **_norm(target.attention_norm, layer.attention_norm),
        **_norm(target.feedforward_norm, layer.feedforward_norm),
        "attention.output.dense.weight": attention.output.weight,
        "attention.output.dense.bias": _bias(attention.output),
    }
    for part, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        state |= {f"attention.self.{part}.weight": weight, f"attention.self.{part}.bias": bias}
    feedforward = layer.feedforward
    if isinstance(feedforward, FFF):  # depth 0: one node a tree, which is one neuron
        hidden = feedforward.hidden_size
        out_bias = torch.zeros(hidden) if feedforward.b_out is None else feedforward.b_out
        parts = (feedforward.w_in[:, 0], feedforward.b_in[:, 0], feedforward.w_out[:, 0].T, out_bias)
    else:
        assert isinstance(feedforward, DenseFeedforward)
        first, second = feedforward.linear_in, feedforward.linear_out
        parts = (first.weight, _bias(first), second.weight, _bias(second))
    names = ("intermediate.dense.weight", "intermediate.dense.bias", "output.dense.weight", "output.dense.bias")
    return state | dict(zip(names, parts, strict=True))


def _head_state(
    model: PretrainedModel, config: UltraFastBertConfig, target: _Target, notes: list[str]
) -> tuple[dict[str, torch.Tensor], str]:
    """The head's tensors and the rest of the class's name; none and `Model` where it cannot be expressed."""
    hidden = config.hidden_size
    if isinstance(model, UltraFastBertForMaskedLM):
        bert = target is _BERT
        if model.transform is None or (not bert and config.hidden_act != "gelu" and config.feedforward == "dense"):
            notes.append(f"the masked-LM head is not the one of {target.model_type} and was left behind")
            return {}, "Model"
        dense, norm = ("transform.dense", "transform.LayerNorm") if bert else ("dense", "layer_norm")
        prefix = "cls.predictions." if bert else "lm_head."
        bias = _bias(model.decoder)
        return {
            f"{prefix}{dense}.weight": model.transform.dense.weight,
            f"{prefix}{dense}.bias": _bias(model.transform.dense),
            **_norm(prefix + norm, model.transform.norm),
            f"{prefix}bias": bias,
            f"{prefix}decoder.weight": model.decoder.weight,
            f"{prefix}decoder.bias": bias,
        }, "ForMaskedLM"
    if isinstance(model, UltraFastBertForSequenceClassification):
        if config.classifier_pooling != "first" or config.classifier_hidden_size != hidden:
            notes.append(f"the classification head is not the one of {target.model_type} and was left behind")
            return {}, "Model"
        head = model.classifier
        dense = "bert.pooler.dense" if target is _BERT else "classifier.dense"
        scores = "classifier" if target is _BERT else "classifier.out_proj"
        return {
            f"{dense}.weight": head.dense.weight,
            f"{dense}.bias": _bias(head.dense),
            f"{scores}.weight": head.scores.weight,
            f"{scores}.bias": _bias(head.scores),
        }, "ForSequenceClassification"
    return {}, "Model"


def _bias(linear: torch.nn.Linear) -> torch.Tensor:
    return torch.zeros(linear.out_features) if linear.bias is None else linear.bias


def _norm(name: str, norm: torch.nn.LayerNorm) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": norm.weight, f"{name}.bias": norm.bias}
