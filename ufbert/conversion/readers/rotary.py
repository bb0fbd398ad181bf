"""What the readers of encoders with rotary positions share: the angles, and post-norm layers with gates.

These NomicBERT and gte have, by the names of transformers' own classes or those of the code beside the checkpoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

from .bert_family import WORD_EMBEDDINGS
from .foreign import ForeignConfig, ForeignTensors, copy_linear, copy_norm

__all__ = ["Names", "NamesOfTransformers", "angles", "has_biases", "read_gated_encoder", "theta"]


def theta(parameters: ForeignConfig, default: float) -> float:
    """`rope_theta` out of `rope_parameters`, or an object like it. Raises `CheckpointError` for scaled angles."""
    kind = _kind(parameters)
    if kind not in (None, "default"):
        raise CheckpointError(f"{parameters.where}: rope_type is {kind!r}, which is not supported; supported: default")
    return parameters.number("rope_theta", default)


def angles(config: ForeignConfig, default: float, head_size: int) -> dict[str, float]:
    """Our `rope_theta` and `rope_scaling_factor` for `rope_parameters`, or `rope_scaling` beside `rope_theta`.

    gte's fixed NTK scaling by k is a theta of k times as much and positions divided by k^(2 / head size). Source:
    Alibaba-NLP/new-impl, modeling.py. Raises `CheckpointError` for other scalings.
    """
    scaling = next((s for name in ("rope_parameters", "rope_scaling") if _kind(s := config.section(name))), None)
    base = config.section("rope_parameters").number("rope_theta", config.number("rope_theta", default))
    if scaling is None or (kind := _kind(scaling)) == "default":
        return {"rope_theta": base, "rope_scaling_factor": 1.0}
    scaling.require("mixed_b", None)
    if kind == "linear":
        return {"rope_theta": base, "rope_scaling_factor": scaling.number("factor")}
    if kind == "ntk":
        factor = scaling.number("factor")
        return {"rope_theta": base * factor, "rope_scaling_factor": factor ** (2 / head_size)}
    raise CheckpointError(
        f"{scaling.where}: rope_type is {kind!r}, which is not supported; supported: default, linear, ntk"
    )


def _kind(parameters: ForeignConfig) -> str | None:
    """The name of a scaling by either key; None where the object is empty."""
    kind = parameters.get("rope_type", parameters.get("type"))
    return str(kind) if kind is not None else ("default" if parameters.values else None)


@dataclass(frozen=True)
class Names:
    """Where a file keeps the parts of layer N, below `prefix` with {} for N."""

    embedding_norm: str
    prefix: str
    query_key_value: tuple[str, ...]
    """Of the three, or one tensor of all rows in this order."""
    attention_output: str
    attention_norm: str
    gate_and_factor: tuple[str, ...]
    """Of the activated product and the one that multiplies it, or one tensor with the factor's rows first."""
    feedforward_out: str
    feedforward_norm: str


NamesOfTransformers = Names(
    embedding_norm="embeddings.LayerNorm",
    prefix="layers.{}.",
    query_key_value=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    attention_output="self_attn.o_proj",
    attention_norm="post_attention_layernorm",
    gate_and_factor=("mlp.gate_proj", "mlp.up_proj"),
    feedforward_out="mlp.down_proj",
    feedforward_norm="post_mlp_layernorm",
)


def has_biases(tensors: ForeignTensors) -> bool:
    """Whether some dense layer of attention or feedforward has one."""
    return any(re.search(r"(attn|attention|mlp)\.\w+\.bias$", name) for name in tensors.names)


def read_gated_encoder(
    tensors: ForeignTensors, config: UltraFastBertConfig, names: Names, base: str
) -> dict[str, torch.Tensor]:
    """Embeddings and layers; `base` is what precedes the encoder's names in this file."""
    hidden, inner = config.hidden_size, config.intermediate_size
    embeddings = "encoder.embeddings."
    state = {f"{embeddings}word.weight": tensors.take(base + WORD_EMBEDDINGS, config.vocab_size, hidden)}
    if config.type_vocab_size:
        name = f"{base}embeddings.token_type_embeddings.weight"
        state[f"{embeddings}token_type.weight"] = tensors.take(name, config.type_vocab_size, hidden)
    state |= copy_norm(tensors, base + names.embedding_norm, f"{embeddings}norm", hidden)
    for index in range(config.num_hidden_layers):
        theirs, ours = base + names.prefix.format(index), f"encoder.layers.{index}."

        def stacked(parts: tuple[str, ...], rows: int, part: str, theirs: str = theirs) -> dict[str, torch.Tensor]:
            each = rows // len(parts)
            read = [copy_linear(tensors, theirs + name, part, each, hidden, bias=config.use_bias) for name in parts]
            return {name: torch.cat([tensor[name] for tensor in read]) for name in read[0]}

        state |= stacked(names.query_key_value, 3 * hidden, f"{ours}attention.qkv")
        gated = stacked(names.gate_and_factor, 2 * inner, f"{ours}feedforward.linear_in")
        if len(names.gate_and_factor) == 1:
            gated = {name: torch.cat(tensor.split(inner)[::-1]) for name, tensor in gated.items()}
        state |= gated
        for name, part, into in (
            (names.attention_output, "attention.output", hidden),
            (names.feedforward_out, "feedforward.linear_out", inner),
        ):
            state |= copy_linear(tensors, theirs + name, ours + part, hidden, into, bias=config.use_bias)
        state |= copy_norm(tensors, theirs + names.attention_norm, f"{ours}attention_norm", hidden)
        state |= copy_norm(tensors, theirs + names.feedforward_norm, f"{ours}feedforward_norm", hidden)
    return state
