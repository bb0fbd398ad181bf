"""What the readers of encoders with rotary positions share: the angles, and post-norm layers with gates.

NomicBERT and gte are that, under the names of transformers' own classes or those of the code beside the checkpoints.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch

from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

from .bert_family import WORD_EMBEDDINGS, copy_linear, copy_norm
from .foreign import ForeignConfig, ForeignTensors

__all__ = ["Names", "NamesOfTransformers", "has_biases", "read_gated_encoder", "theta"]


def theta(parameters: ForeignConfig, default: float) -> float:
    """`rope_theta` out of `rope_parameters`, or an object like it. Raises `CheckpointError` for scaled angles."""
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"{parameters.where}: rope_type is {kind!r}; only default angles can be expressed")
    return parameters.number("rope_theta", default)


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
