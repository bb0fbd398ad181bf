"""Reader of Hugging Face `roberta` checkpoints, and of `xlm-roberta` and `camembert`, which are the same model.

Positions are numbered from `pad_token_id + 1`, so the table has that many rows more than a text has tokens.
"""

from __future__ import annotations

from ufbert.errors import CheckpointError
from ufbert.model.config import UltraFastBertConfig

from .bert import LAYERS, embeddings_state, encoder_values, is_classifier
from .bert_family import (
    HeadNames,
    classifier_values,
    finish,
    masked_lm_values,
    read_classifier,
    read_layers,
    read_masked_lm_head,
)
from .foreign import ForeignConfig, ForeignTensors, Reading

__all__ = ["read"]

HEAD = HeadNames(dense="lm_head.dense", norm="lm_head.layer_norm", decoder="lm_head.decoder", bias="lm_head.bias")


def read(config: ForeignConfig, tensors: ForeignTensors) -> Reading:
    """Raises `CheckpointError` for whatever our encoder cannot express."""
    base = "roberta." if tensors.has_any("roberta.") else ""
    word = f"{base}embeddings.word_embeddings.weight"
    values = encoder_values(config)
    notes: list[str] = []
    values["pad_token_id"] = config.integer("pad_token_id", 1)
    values["position_offset"] = values["pad_token_id"] + 1
    values["max_position_embeddings"] -= values["position_offset"]
    if values["max_position_embeddings"] < 1:
        raise CheckpointError(f"{config.where}: max_position_embeddings leaves no room beside the padding's row")
    hidden, vocabulary = values["hidden_size"], values["vocab_size"]
    if f"{HEAD.dense}.weight" in tensors:
        if values["hidden_act"] == "gelu":
            values |= masked_lm_values(tensors, HEAD, word, vocabulary, hidden)
        else:  # this family's head always has exact GELU, ours has the layers' activation
            notes.append(f"hidden_act is {values['hidden_act']}, so the masked-LM head cannot be expressed")
    elif is_classifier(config) and "classifier.out_proj.weight" in tensors:
        values |= classifier_values(config, tensors, "classifier.out_proj", hidden) or {}
    ours = UltraFastBertConfig(**values)
    state = embeddings_state(tensors, ours, base)
    state |= read_layers(tensors, ours, LAYERS, base)
    if ours.architectures == ("UltraFastBertForMaskedLM",):
        state |= read_masked_lm_head(tensors, ours, HEAD)
    elif ours.architectures == ("UltraFastBertForSequenceClassification",):
        state |= read_classifier(tensors, ours, "classifier.dense", "classifier.out_proj")
    return finish(ours, state, tensors, base, notes)
