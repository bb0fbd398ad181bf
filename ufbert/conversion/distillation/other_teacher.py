"""Another teacher for the end-to-end training than the model whose layers are converted."""

from __future__ import annotations

import torch

from ufbert.conversion.readers.checkpoint import LoadedCheckpoint, encoder_of
from ufbert.errors import ConfigError

__all__ = ["check_teacher"]

# What hidden states of the same meaning take.
ALIKE = {
    "hidden_size": "hidden size",
    "num_hidden_layers": "number of layers",
    "norm_position": "place of the norms",
    "final_norm": "final norm",
    "vocab_size": "size of the vocabulary",
}


def check_teacher(teacher: LoadedCheckpoint, source: LoadedCheckpoint, task: str, maximum: int) -> None:
    """Raise `ConfigError` for a teacher whose hidden states the student of `source` cannot learn.

    `maximum` is the longest text in tokens. For a `task` with a head, both must have the same.
    """
    option = f"--teacher {teacher.name}"
    ours, theirs = source.model.config, teacher.model.config
    for name, meaning in ALIKE.items():
        if (mine := getattr(ours, name)) != (other := getattr(theirs, name)):
            raise ConfigError(f"{option}: its {meaning} ({other}) is not that of {source.name} ({mine})")
    assert source.tokenizer is not None
    tokenizer = teacher.tokenizer
    if tokenizer is not None and tokenizer.get_vocab(True) != source.tokenizer.get_vocab(True):
        raise ConfigError(f"{option}: its tokenizer is not that of {source.name}, so that tokens mean something else")
    if theirs.max_position_embeddings < maximum:
        raise ConfigError(
            f"{option}: reads {theirs.max_position_embeddings} tokens of a text, and {source.name} is distilled on "
            f"{maximum}"
        )
    if bool(ours.type_vocab_size) != bool(theirs.type_vocab_size):
        raise ConfigError(f"{option}: of it and {source.name} only one has token types")
    if task != "embed" and not _same_head(teacher, source):
        raise ConfigError(
            f"{option}: its head is not that of {source.name}, and a head stays as it is; give --task embed to learn "
            "embeddings alone"
        )


def _same_head(teacher: LoadedCheckpoint, source: LoadedCheckpoint) -> bool:
    first, second = (_head_of(loaded) for loaded in (teacher, source))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _head_of(loaded: LoadedCheckpoint) -> dict[str, torch.Tensor]:
    """All tensors beside the encoder's."""
    encoder = {tensor.data_ptr() for tensor in encoder_of(loaded.model).state_dict().values()}
    state = loaded.model.state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.data_ptr() not in encoder}
