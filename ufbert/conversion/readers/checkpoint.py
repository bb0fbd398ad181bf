"""From a checkpoint of any known kind to one of our models in memory.

A family is a module here with `read(config, tensors)`; adding one takes the module and a line in `FAMILIES`.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ufbert.checkpoint.cross_encoder import read_score_activation
from ufbert.checkpoint.folder import locate_checkpoint, read_json
from ufbert.checkpoint.sentence_transformers import read_embedder, transformer_folder
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.config import MODEL_TYPE
from ufbert.model.embedding_layers import embedding_size
from ufbert.model.encoder import Embeddings, UltraFastBertModel
from ufbert.model.heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.model.pretrained import PretrainedModel, read_config, unallocated
from ufbert.model.token_head import UltraFastBertForTokenClassification

from .bert_heads import CLASSIFIER
from .families import inexpressible, recognise
from .foreign import ForeignConfig, ForeignTensors, Reading, encoder_config, tensor_names
from .tokenizer import read_tokenizer

__all__ = ["FAMILIES", "LoadedCheckpoint", "encoder_of", "load_checkpoint"]

FAMILIES = {
    "bert": "bert",
    "camembert": "roberta",
    "crammedBERT": "crammed",
    "distilbert": "distilbert",
    "electra": "electra",
    "gte": "gte",
    "modernbert": "modernbert",
    "mpnet": "mpnet",
    "new": "gte",
    "nomic_bert": "nomic_bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
}
"""`model_type` in config.json -> module of this package."""

SELF_DESCRIBED = "crammedBERT"
"""Says what it is in a section of its own, which its reader checks."""

MODELS: dict[str, type[PretrainedModel]] = {
    cls.__name__: cls
    for cls in (
        UltraFastBertModel,
        UltraFastBertForMaskedLM,
        UltraFastBertForSequenceClassification,
        UltraFastBertForTokenClassification,
    )
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


def load_checkpoint(
    source: str | Path, revision: str | None = None, *, family: str | None = None, drop_head: bool = False
) -> LoadedCheckpoint:
    """Read a checkpoint folder or a hub model, of which `revision` is a branch, tag or commit.

    `family` is a key of `FAMILIES`, for a config.json that names none or one that is read like it. `drop_head` takes
    the encoder alone. Raises `CheckpointError` for whatever is not one we know, and for a head that would be lost.
    """
    folder = locate_checkpoint(source, revision)
    root = folder
    embedder = read_embedder(root)  # first, as modules that cannot be expressed may have no config.json
    folder = transformer_folder(root) or root
    file = folder / "config.json"
    values = read_json(file)
    if values.get("model_type") == MODEL_TYPE:
        if family is not None:
            raise CheckpointError(f"{file}: is an {MODEL_TYPE} checkpoint already; leave out --family {family}")
        loaded = _load_ours(str(source), folder, drop_head)
        if embedder.declared:
            loaded.model.take_embedder(embedder)
        return loaded
    model_type = _family(values, file, family)
    reader: Any = importlib.import_module(f"{__package__}.{FAMILIES[model_type]}")
    tensors = ForeignTensors.load(folder)
    if model_type != SELF_DESCRIBED:
        _refuse("this model", file, inexpressible({}, tensors.names, model_type))
    try:
        reading: Reading = reader.read(ForeignConfig(values, str(file)), tensors)
        if reading.left_heads and not drop_head:
            raise CheckpointError(
                f"{tensors.file}: holds a head that cannot be expressed: {_listed(reading.left_heads)}; give "
                "--drop-head to take the encoder alone"
            )
        if reading.stretches and (embedder.max_seq_length or 0) > reading.config.max_position_embeddings:
            reading.config = reading.config.replace(max_position_embeddings=embedder.max_seq_length)
        if drop_head:
            reading = reading.encoder_alone()
        elif CLASSIFIER in reading.config.architectures:
            activation = read_score_activation(root, values, reading.config.num_labels)
            if activation is not None:
                reading.config = reading.config.replace(score_activation=activation)
            elif reading.config.score_activation is not None:
                reading.notes.append(
                    "one score and no problem_type: its sigmoid is taken, as transformers' pipeline and CrossEncoder "
                    'do; for the plain value put "problem_type": "regression" into config.json'
                )
    except ConfigError as error:  # a value out of range
        raise CheckpointError(f"{file}: {error}") from error
    facts: dict[str, Any] = {"source": str(source), "source_model_type": model_type}
    if reading.config.score_activation is not None:
        facts |= _longest_pair(folder)
    if revision is not None:
        facts["source_revision"] = revision
    model = build_model(reading, facts)
    try:
        embedding_size(embedder, reading.config.hidden_size)
    except CheckpointError as error:
        raise CheckpointError(f"{root}: {error}") from error
    model.take_embedder(embedder)
    tokenizer, note = read_tokenizer(folder, root)
    # Numbers may have gaps, so the greatest one counts.
    entries = max(tokenizer.get_vocab().values(), default=-1) + 1 if tokenizer is not None else 0
    if entries > reading.config.vocab_size:
        raise CheckpointError(
            f"{folder}: its tokenizer has {entries} entries, the model only {reading.config.vocab_size}; "
            "they do not belong together"
        )
    notes = [*reading.notes, *([note] if note else []), *embedder.notes]
    return LoadedCheckpoint(str(source), model_type, model, tokenizer, notes)


def _longest_pair(folder: Path) -> dict[str, Any]:
    """Where `CrossEncoder` cuts a pair: at the length that its tokenizer names."""
    file = folder / "tokenizer_config.json"
    length = read_json(file).get("model_max_length") if file.is_file() else None
    return {"max_seq_length": length} if isinstance(length, int) and 0 < length < 10**6 else {}


def _family(values: dict[str, Any], file: Path, family: str | None) -> str:
    """The key of `FAMILIES` to read a checkpoint by. Raises `CheckpointError` naming what stands against it."""
    if family is not None and family not in FAMILIES:
        raise CheckpointError(f"--family {family}: unknown family; known: {', '.join(sorted(FAMILIES))}")
    model_type = values.get("model_type")
    kind = family or model_type
    names: list[str] = []
    if kind not in FAMILIES:
        names = tensor_names(file.parent)
        if model_type is None:
            kind = recognise(values, names)
    if kind == SELF_DESCRIBED:
        return SELF_DESCRIBED
    subject = f"the family {model_type!r}" if kind not in FAMILIES and model_type else "this model"
    _refuse(subject, file, inexpressible(values, names, str(kind)))
    if kind in FAMILIES:
        return str(kind)
    if model_type is None:
        raise CheckpointError(
            f"{file}: names no model_type, and its tensors show no family; give --family; {_readable()}"
        )
    raise CheckpointError(
        f"{file}: model_type is {model_type!r}, which is not known; {_readable()}; if it is laid out like one of them, "
        "give --family"
    )


def _refuse(subject: str, file: Path, obstacles: list[str]) -> None:
    if obstacles:
        raise CheckpointError(
            f"{file}: {subject} cannot be read exactly, as it has {', '.join(obstacles)}; {_readable()}"
        )


def _readable() -> str:
    return f"readable: {', '.join(sorted([*FAMILIES, MODEL_TYPE]))}"


def _listed(names: list[str]) -> str:
    parts = sorted({name.rsplit(".", 1)[0] if name.endswith((".weight", ".bias")) else name for name in names})
    return ", ".join(parts[:8]) + (f" and {len(parts) - 8} more" if len(parts) > 8 else "")


def _load_ours(name: str, folder: Path, drop_head: bool) -> LoadedCheckpoint:
    config = read_config(folder)
    if drop_head:
        config = encoder_config(config)
    kind = config.architectures[0] if config.architectures else ""
    if kind not in MODELS:
        raise CheckpointError(
            f"{folder / 'config.json'}: architectures is {list(config.architectures)}; known: {', '.join(MODELS)}"
        )
    tokenizer, note = read_tokenizer(folder, folder)
    model = MODELS[kind].from_pretrained(folder)
    if drop_head:
        model.config = encoder_config(model.config)
    return LoadedCheckpoint(name, MODEL_TYPE, model, tokenizer, [note] if note else [])


def build_model(reading: Reading, provenance: dict[str, Any]) -> PretrainedModel:
    """The model that `reading` describes, its tensors taken as they are."""
    config = reading.config.replace(provenance=provenance)
    cls = MODELS[config.architectures[0]]
    with unallocated():  # no time spent on values that are about to be replaced
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
