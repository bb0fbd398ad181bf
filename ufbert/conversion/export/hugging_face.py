"""Our dense models as Hugging Face checkpoints, which `transformers` loads and computes the same from.

Post-norm models become `bert` (`roberta`, where positions start after the padding's row; `electra` or `distilbert`,
where the embeddings or the head are theirs), pre-norm ones with a final norm `roberta-prelayernorm`; fixed positions
become a table. Trees of depth 0 are dense layers.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from ufbert.checkpoint.cross_encoder import score_activation_keys
from ufbert.checkpoint.embedder_files import write_embedder
from ufbert.checkpoint.tokenizer import save_tokenizer
from ufbert.conversion.readers import bert, distilbert, electra, roberta
from ufbert.conversion.readers.bert_family import LayerNames
from ufbert.conversion.readers.bert_heads import CLASSIFIER, MASKED_LM, ClassifierNames, HeadNames
from ufbert.conversion.readers.checkpoint import encoder_of
from ufbert.conversion.readers.token_classifier import SCORES
from ufbert.errors import CheckpointError
from ufbert.model.attention import SelfAttention
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import DenseFeedforward, Layer
from ufbert.model.fff import FFF
from ufbert.model.heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.model.pretrained import PretrainedModel
from ufbert.model.token_head import UltraFastBertForTokenClassification

__all__ = ["nearest_config", "write_hugging_face"]


@dataclass(frozen=True)
class _Target:
    """A model type of transformers and where it keeps things, as its reader has it."""

    model_type: str
    class_prefix: str
    base: str
    layers: LayerNames
    masked_lm: HeadNames
    classifier: ClassifierNames
    types: int = 2
    """Rows of zeros in the place of token types that ours has not; these classes always add one."""
    shifted: bool = False
    """Whether positions are numbered behind the padding's id."""
    head_act: str | None = "gelu"
    """Activation of the masked-LM head; None is that of the layers."""


_BERT = _Target("bert", "Bert", "bert.", bert.LAYERS, bert.HEAD, bert.CLASSIFIER, head_act=None)
_ELECTRA = _Target("electra", "Electra", "electra.", bert.LAYERS, electra.HEAD, electra.CLASSIFIER)
_DISTILBERT = _Target(
    *("distilbert", "DistilBert", "distilbert."),
    *(distilbert.LAYERS, distilbert.HEAD, distilbert.CLASSIFIER),
    types=0,
    head_act=None,
)
_ROBERTA = _Target(
    "roberta", "Roberta", "roberta.", bert.LAYERS, roberta.HEAD, roberta.CLASSIFIER, types=1, shifted=True
)
_PRE_NORM = dataclasses.replace(
    _ROBERTA,
    model_type="roberta-prelayernorm",
    class_prefix="RobertaPreLayerNorm",
    base="roberta_prelayernorm.",
    layers=dataclasses.replace(
        bert.LAYERS, attention_norm="attention.LayerNorm", feedforward_norm="intermediate.LayerNorm"
    ),
)


def _target(config: UltraFastBertConfig, name: str) -> _Target:
    shapes = config.layer_shapes
    if deep := [shape for shape in shapes if shape.depth > 0]:
        raise CheckpointError(
            f"{name}: has trees of depth {deep[0].depth}; which neurons a token uses depends on the token, so no dense "
            "network computes the same (only depth 0 is dense); --to onnx writes the trees themselves"
        )
    if config.has_token_rows:
        raise CheckpointError(
            f"{name}: has token rows beside its neurons; no BERT-family class of transformers has them; --to onnx "
            "writes them"
        )
    if len({shape.dense_width for shape in shapes}) > 1:
        raise CheckpointError(
            f"{name}: has {config.feedforward_name}; the classes of transformers have one width for all layers; --to "
            "onnx writes each as it is"
        )
    if config.feedforward_kind == "none":
        raise CheckpointError(f"{name}: has no feedforward layers; every BERT-family class of transformers has them")
    if config.alibi:
        raise CheckpointError(f"{name}: has ALiBi's bias in attention; no BERT-family class of transformers has it")
    own = {
        "relative positions (relative_attention_num_buckets)": config.relative_attention_num_buckets,
        "rotary positions (position_embedding_type)": config.position_embedding_type == "rotary",
        "local attention (local_attention)": config.local_attention,
        "gated dense layers (is_gated_act)": config.is_gated_act and any(shape.kind == "dense" for shape in shapes),
        "trees, which have GELU, beside dense layers with another activation (hidden_act)": (
            config.hidden_act != "gelu" and {shape.kind for shape in shapes} == {"fff", "dense"}
        ),
        "no norm before the first layer (skip_first_prenorm)": config.skip_first_prenorm,
    }
    if found := [what for what, has in own.items() if has]:
        raise CheckpointError(
            f"{name}: has {', '.join(found)}, which the classes of transformers written here lack; --to onnx writes it"
        )
    if not config.embedding_norm:
        raise CheckpointError(
            f"{name}: has no norm after the embeddings; no BERT-family class of transformers lacks it"
        )
    if config.embedding_size is not None and (config.norm_position == "pre" or config.position_offset):
        raise CheckpointError(f"{name}: projects its embeddings; of transformers' classes only post-norm ELECTRA does")
    if config.norm_position == "pre":
        if config.final_norm:
            return _PRE_NORM
        raise CheckpointError(f"{name}: is pre-norm without a final norm; no BERT-family class of transformers is")
    if config.final_norm:
        raise CheckpointError(f"{name}: is post-norm with a final norm; no BERT-family class of transformers is")
    if config.position_offset:
        return _ROBERTA
    kind = config.architectures[0]
    if kind == CLASSIFIER and config.classifier_act == "relu" and _fits_distilbert(config):
        return _DISTILBERT
    own_head = (kind == CLASSIFIER and config.classifier_act == "gelu") or (
        kind == MASKED_LM and config.head_act == "gelu" and _layer_act(config) != "gelu"
    )
    return _ELECTRA if config.embedding_size is not None or own_head else _BERT


def _fits_distilbert(config: UltraFastBertConfig) -> bool:
    return not config.type_vocab_size and config.embedding_size is None and config.layer_norm_eps == 1e-12


def _layer_act(config: UltraFastBertConfig) -> str:
    return config.hidden_act if config.feedforward_kind == "dense" else "gelu"


def write_hugging_face(model: PretrainedModel, tokenizer: Tokenizer | None, folder: Path, name: str) -> None:
    """Fill an existing folder with config, weights and tokenizer.

    Raises `CheckpointError` unless a dense network of transformers computes the same function, head included.
    """
    config = model.config.replace(architectures=(type(model).__name__,))
    target = _target(config, name)
    state = _encoder_state(model, config, target)
    head, architecture = _head_state(model, config, target, name)
    if head:
        state = {target.base + key: tensor for key, tensor in state.items()} | head
    values = _whole_config(config, target, architecture)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder, model.longest_tokenized)
    write_embedder(model.embedder, config.hidden_size, config.max_position_embeddings, folder)


def nearest_config(model: PretrainedModel) -> dict[str, Any]:
    """A `config.json` in the terms of `transformers` for whoever reads sizes and labels, not weights.

    The model type is one that every installation knows: the one of `write_hugging_face` or, for what no class of
    transformers computes, BERT's or RoBERTa's, with fields of ours that say what the feedforward layers are.
    """
    config = model.config.replace(architectures=(type(model).__name__,))
    try:
        target = _target(config, "")
    except CheckpointError:
        target = _ROBERTA if config.position_offset else _BERT
    architectures = {
        UltraFastBertForMaskedLM: "ForMaskedLM",
        UltraFastBertForSequenceClassification: "ForSequenceClassification",
        UltraFastBertForTokenClassification: "ForTokenClassification",
    }
    values = _whole_config(config, target, architectures.get(type(model), "Model"))
    if config.feedforward_layers:
        return values | {"feedforward_layers": list(config.feedforward_layers)}
    if config.feedforward != "dense":
        values["feedforward"] = config.feedforward
    if config.feedforward == "fff":
        values |= {"trees": config.trees, "depth": config.depth, "shared_neurons": config.shared_neurons}
    return values


def _whole_config(config: UltraFastBertConfig, target: _Target, architecture: str) -> dict[str, Any]:
    values = _config_values(config, target) | {"architectures": [target.class_prefix + architecture]}
    if architecture in ("ForSequenceClassification", "ForTokenClassification"):
        values |= {
            "id2label": {str(i): label for i, label in enumerate(config.label_names)},
            "label2id": {label: i for i, label in enumerate(config.label_names)},
        }
    if architecture == "ForSequenceClassification":
        plain = config.regression and config.score_activation is None
        values |= {
            # Without it transformers' pipeline squashes one score, which to us is a value.
            "problem_type": "regression" if plain else config.problem_type,
            **score_activation_keys(config.score_activation),
        }
    return values


def _config_values(config: UltraFastBertConfig, target: _Target) -> dict[str, Any]:
    shared = {
        "model_type": target.model_type,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.max_position_embeddings + _offset(config, target),
        "pad_token_id": config.pad_token_id,
        "initializer_range": config.initializer_range,
        "tie_word_embeddings": config.tie_word_embeddings,
        "dtype": "float32",
    }
    neurons = config.neurons_available
    if target is _DISTILBERT:
        return shared | {
            "dim": config.hidden_size,
            "n_layers": config.num_hidden_layers,
            "n_heads": config.num_attention_heads,
            "hidden_dim": neurons,
            "activation": _layer_act(config),
            "dropout": config.hidden_dropout_prob,
            "attention_dropout": config.attention_probs_dropout_prob,
            "seq_classif_dropout": config.classifier_dropout,
        }
    return shared | {
        **({"embedding_size": config.embedding_width} if target is _ELECTRA else {}),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": neurons,
        "hidden_act": _layer_act(config),
        "type_vocab_size": config.type_vocab_size or target.types,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_dropout_prob": config.hidden_dropout_prob,
        "attention_probs_dropout_prob": config.attention_probs_dropout_prob,
        "classifier_dropout": config.classifier_dropout,
        "position_embedding_type": "absolute",
    }


def _offset(config: UltraFastBertConfig, target: _Target) -> int:
    """Rows of the position table before the first token's: RoBERTa's classes number from the padding's id."""
    return config.pad_token_id + 1 if target.shifted else 0


def _encoder_state(model: PretrainedModel, config: UltraFastBertConfig, target: _Target) -> dict[str, torch.Tensor]:
    encoder = encoder_of(model)
    embeddings = encoder.embeddings
    width = config.embedding_width
    if config.position_embedding_type == "absolute":
        positions = embeddings.position.weight[config.position_offset :]
    else:
        positions = embeddings.position_scale * embeddings.positions
    padding = torch.zeros(_offset(config, target), width)
    assert embeddings.norm is not None
    state = {
        "embeddings.word_embeddings.weight": embeddings.word.weight,
        "embeddings.position_embeddings.weight": torch.cat([padding, positions]),
        **_norm("embeddings.LayerNorm", embeddings.norm),
    }
    if config.type_vocab_size:
        state["embeddings.token_type_embeddings.weight"] = embeddings.token_type.weight
    elif target.types:
        state["embeddings.token_type_embeddings.weight"] = torch.zeros(target.types, width)
    if embeddings.projection is not None:
        state |= _linear("embeddings_project", embeddings.projection)
    for index, layer in enumerate(encoder.layers):
        assert isinstance(layer, Layer)
        prefix = target.layers.prefix.format(index)
        state |= {prefix + key: t for key, t in _layer_state(layer, target.layers).items()}
    if encoder.final_norm is not None:
        state |= _norm("LayerNorm", encoder.final_norm)
    return state


def _for_each_head(attention: SelfAttention, rows: torch.Tensor) -> list[torch.Tensor]:
    """The query's, key's and value's part of `rows`, with H rows each: heads that share a key get a copy each."""
    hidden = attention.qkv.in_features
    shared = attention.heads // attention.key_value_heads
    query, *others = rows.split((hidden, hidden // shared, hidden // shared))
    by_head = (part.unflatten(0, (attention.key_value_heads, -1)) for part in others)
    return [query, *(part.repeat_interleave(shared, 0).flatten(0, 1) for part in by_head)]


def _layer_state(layer: Layer, names: LayerNames) -> dict[str, torch.Tensor]:
    attention: SelfAttention = layer.attention
    assert layer.feedforward_norm is not None
    weights = _for_each_head(attention, attention.qkv.weight)
    biases = _for_each_head(attention, _bias(attention.qkv))
    state = {
        **_norm(names.attention_norm, layer.attention_norm),
        **_norm(names.feedforward_norm, layer.feedforward_norm),
        **_linear(names.attention_output, attention.output),
    }
    for part, weight, bias in zip((names.query, names.key, names.value), weights, biases, strict=True):
        state |= {f"{part}.weight": weight, f"{part}.bias": bias}
    feedforward = layer.feedforward
    if isinstance(feedforward, FFF):  # depth 0: one node a tree, which is one neuron
        hidden = feedforward.hidden_size
        out_bias = torch.zeros(hidden) if feedforward.b_out is None else feedforward.b_out
        rows: torch.Tensor = feedforward.w_in[:, 0]
        inner_bias: torch.Tensor = feedforward.b_in[:, 0]
        columns: torch.Tensor = feedforward.w_out[:, 0].T
        if (shared := feedforward.shared) is not None:
            rows = torch.cat([rows, shared.linear_in.weight])
            inner_bias = torch.cat([inner_bias, shared.linear_in.bias])
            columns = torch.cat([columns, shared.linear_out.weight], 1)
        return state | {
            f"{names.feedforward_in}.weight": rows,
            f"{names.feedforward_in}.bias": inner_bias,
            f"{names.feedforward_out}.weight": columns,
            f"{names.feedforward_out}.bias": out_bias,
        }
    assert isinstance(feedforward, DenseFeedforward)
    state |= _linear(names.feedforward_in, feedforward.linear_in)
    return state | _linear(names.feedforward_out, feedforward.linear_out)


def _head_state(
    model: PretrainedModel, config: UltraFastBertConfig, target: _Target, name: str
) -> tuple[dict[str, torch.Tensor], str]:
    """The head's tensors and the rest of the class's name. Raises `CheckpointError` where it is not the target's."""
    cure = f"is not the one of transformers' {target.model_type}; give --drop-head to write the encoder alone"
    if isinstance(model, UltraFastBertForMaskedLM):
        names = target.masked_lm
        if model.transform is None:
            raise CheckpointError(f"{name}: the masked-LM head (decoder, without a transform) {cure}")
        own = config.head_act or config.hidden_act
        if own != (target.head_act or _layer_act(config)):
            raise CheckpointError(f"{name}: the masked-LM head (transform, decoder; {own}) {cure}")
        bias = _bias(model.decoder)
        assert names.bias is not None
        return {
            **_linear(names.dense, model.transform.dense),
            **_norm(names.norm, model.transform.norm),
            names.bias: bias,
            f"{names.decoder}.weight": model.decoder.weight,
            f"{names.decoder}.bias": bias,
        }, "ForMaskedLM"
    if isinstance(model, UltraFastBertForSequenceClassification):
        form = (config.classifier_pooling, config.classifier_hidden_size, config.classifier_act)
        if form != ("first", config.hidden_size, target.classifier.activation) or config.classifier_norm:
            pooling, width, activation = form
            raise CheckpointError(
                f"{name}: the classification head (classifier.dense, classifier.scores; pooling {pooling}, "
                f"{width} wide, {activation}{', normed' if config.classifier_norm else ''}) {cure}"
            )
        return {
            **_linear(target.classifier.dense, model.classifier.dense),
            **_linear(target.classifier.scores, model.classifier.scores),
        }, "ForSequenceClassification"
    if isinstance(model, UltraFastBertForTokenClassification):
        return _linear(SCORES, model.tagger.scores), "ForTokenClassification"
    return {}, "Model"


def _linear(name: str, linear: torch.nn.Linear) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": linear.weight, f"{name}.bias": _bias(linear)}


def _bias(linear: torch.nn.Linear) -> torch.Tensor:
    return torch.zeros(linear.out_features) if linear.bias is None else linear.bias


def _norm(name: str, norm: torch.nn.Module) -> dict[str, torch.Tensor]:
    assert isinstance(norm, torch.nn.LayerNorm)
    bias: torch.Tensor | None = norm.bias
    return {f"{name}.weight": norm.weight, f"{name}.bias": torch.zeros_like(norm.weight) if bias is None else bias}
