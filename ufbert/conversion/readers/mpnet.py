"""Reader of Hugging Face `mpnet` checkpoints: RoBERTa with a bias of the scores for each bucket of distances."""

from __future__ import annotations

import torch

from ufbert.model.config import UltraFastBertConfig

from .bert import encoder_values
from .bert_family import LayerNames, read_embeddings, read_heads_with, read_layers
from .foreign import ForeignConfig, ForeignTensors, Reading
from .roberta import CLASSIFIER, HEAD, number_from

__all__ = ["read"]

LAYERS = LayerNames(
    prefix="encoder.layer.{}.",
    query="attention.attn.q",
    key="attention.attn.k",
    value="attention.attn.v",
    attention_output="attention.attn.o",
    attention_norm="attention.LayerNorm",
    feedforward_in="intermediate.dense",
    feedforward_out="output.dense",
    feedforward_norm="output.LayerNorm",
)
# Fixed in transformers' code, whatever config.json says.
PADDING, BUCKETS, MAX_DISTANCE = 1, 32, 128


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = "mpnet." if tensors.has_any("mpnet.") else ""
    values = encoder_values(config)
    config.require("relative_attention_num_buckets", BUCKETS)
    config.require("pad_token_id", PADDING)
    number_from(config, values, PADDING)
    values["type_vocab_size"] = 0
    values["relative_attention_num_buckets"] = BUCKETS
    values["relative_attention_max_distance"] = MAX_DISTANCE

    def read_encoder(ours: UltraFastBertConfig) -> dict[str, torch.Tensor]:
        biases = tensors.take(f"{base}encoder.relative_attention_bias.weight", BUCKETS, ours.num_attention_heads)
        state = {"encoder.relative_attention_bias.weight": biases}
        return state | read_embeddings(tensors, ours, base) | read_layers(tensors, ours, LAYERS, base)

    return read_heads_with(config, tensors, values, base, read_encoder, HEAD, CLASSIFIER, head_act="gelu")
