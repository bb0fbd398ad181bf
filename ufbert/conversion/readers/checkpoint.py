"""From a checkpoint of any known kind to one of our models in memory.

A family is a module here with `read(config, tensors)`; adding one takes the module and a line in `FAMILIES`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from ufbert.checkpoint.folder import locate_checkpoint, read_json
from ufbert.checkpoint.sentence_transformers import read_embedder, transformer_folder
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.config import MODEL_TYPE
from ufbert.model.embedding_layers import embedding_size
from ufbert.model.encoder import Embeddings, UltraFastBertModel
from ufbert.model.heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.model.pretrained import PretrainedModel, read_config

from .foreign import ForeignConfig, ForeignTensors, Reading
from .tokenizer import read_tokenizer

__all__ = ["FAMILIES", "LoadedCheckpoint", "encoder_of", "load_checkpoint"]

FAMILIES = {
    "bert": "bert",
    "camembert": "roberta",
    "crammedBERT": "crammed",
    "distilbert": "distilbert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
}
"""`model_type` in config.json -> module of this package."""

MODELS: dict[str, type[PretrainedModel]] = {
    cls.__name__: cls for cls in (UltraFastBertModel, UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification)
}


@dataclass
class LoadedCheckpoint:
    """A model in evaluation mode on the CPU, with what belongs to it."""

    name: str
    """What the user typed."""
    model_type: str
    model: PretrainedModel
    tokenizer: Tokenizer | None
    notes: list[str] = field(default_factory=list)


def load_checkpoint(source: str | Path, revision: str | None = None) -> LoadedCheckpoint:
    """Read a checkpoint folder or a hub model, of which `revision` is a branch, tag or commit.

    Raises `CheckpointError` for whatever is not one we know.
    """
    folder = locate_checkpoint(source, revision)
    root = folder
    embedder = read_embedder(root)  # first, as modules that cannot be expressed may have no config.json
    folder = transformer_folder(root) or root
    values = read_json(folder / "config.json")
    model_type = values.get("model_type")
    if model_type == MODEL_TYPE:
        loaded = _load_ours(str(source), folder)
        if embedder.declared:
            loaded.model.take_embedder(embedder)
        return loaded
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted([*FAMILIES, MODEL_TYPE]))
        raise CheckpointError(
            f"{folder / 'config.json'}: model_type is {model_type!r}, which is not known; known: {known}"
        )
    reader: Any = importlib.import_module(f"{__package__}.{FAMILIES[model_type]}")
    try:
        reading: Reading = reader.read(ForeignConfig(values, str(folder / "config.json")), ForeignTensors.load(folder))
    except ConfigError as error:  # a value out of range
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    facts = {"source": str(source), "source_model_type": model_type}
    if revision is not None:
        facts["source_revision"] = revision
    model = build_model(reading, facts)
    try:
        embedding_size(embedder, reading.config.hidden_size)
    except CheckpointError as error:
        raise CheckpointError(f"{root}: {error}") from error
    model.take_embedder(embedder)
    tokenizer, note = read_tokenizer(folder, root)
    if tokenizer is not None and tokenizer.get_vocab_size() > reading.config.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has {tokenizer.get_vocab_size()} entries, the model only "
            f"{reading.config.vocab_size}; they do not belong together"
        )
    notes = [*reading.notes, *([note] if note else []), *embedder.notes]
    return LoadedCheckpoint(str(source), model_type, model, tokenizer, notes)


def _load_ours(name: str, folder: Path) -> LoadedCheckpoint:
    config = read_config(folder)
    kind = config.architectures[0] if config.architectures else ""
    if kind not in MODELS:
        raise CheckpointError(
            f"{folder / 'config.json'}: architectures is {list(config.architectures)}; known: {', '.join(MODELS)}"
        )
    tokenizer, note = read_tokenizer(folder, folder)
    model = MODELS[kind].from_pretrained(folder)
    return LoadedCheckpoint(name, MODEL_TYPE, model, tokenizer, [note] if note else [])


def build_model(reading: Reading, provenance: dict[str, Any]) -> PretrainedModel:
    """The model that `reading` describes, its tensors taken as they are."""
    config = reading.config.replace(provenance=provenance)
    cls = MODELS[config.architectures[0]]
    with torch.device("meta"):  # no time spent on values that are about to be replaced
        model = cls(config)
    state = reading.state
    if cls is UltraFastBertModel:
        state = {name.removeprefix("encoder."): tensor for name, tensor in state.items()}
    elif cls is UltraFastBertForMaskedLM and config.tie_word_embeddings:
        state = {**state, "decoder.weight": state["encoder.embeddings.word.weight"]}
    model.load_state_dict({name: t.contiguous() for name, t in state.items()}, assign=True)
    model.tie_weights()
    for module in model.modules():
        if isinstance(module, Embeddings):
            module.fill_buffers()
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model.eval()


def encoder_of(model: PretrainedModel) -> UltraFastBertModel:
    """The encoder inside, or the model itself if it has no head."""
    encoder = model if isinstance(model, UltraFastBertModel) else model.get_submodule("encoder")
    assert isinstance(encoder, UltraFastBertModel)
    return encoder
