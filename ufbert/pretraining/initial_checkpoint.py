"""A run that goes on from the weights of a checkpoint: its model and its tokenizer take the place of the settings'."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tokenizers import Tokenizer

from ufbert.checkpoint.folder import locate_checkpoint
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.model.pretrained import read_config
from ufbert.reporting import note
from ufbert.settings.sections import Settings

__all__ = ["initial_model", "with_initial_checkpoint"]


def with_initial_checkpoint(settings: Settings, overrides: Sequence[str]) -> Settings:
    """The settings of a new run that begins with `training.initial_checkpoint`, if it names one.

    Raises `CheckpointError` for what is no checkpoint of ours or has no tokenizer, `ConfigError` for `overrides`
    (`section.key=value`) of the model, for another tokenizer, and for sequences that the model is too short for.
    """
    source = settings.training.initial_checkpoint
    if not source:
        return settings
    for override in overrides:
        if override.startswith("model."):
            raise ConfigError(
                f"--set {override}: the model is that of {source}, which the run begins with; leave it out"
            )
    folder = locate_checkpoint(source)
    config = read_config(folder)
    if settings.data.tokenizer not in ("", str(folder)):
        raise ConfigError(
            f"data.tokenizer = {settings.data.tokenizer!r}: the run begins with {source}, which has its own; "
            "leave it out"
        )
    if not (folder / "tokenizer.json").is_file():
        raise CheckpointError(f"{folder}: has no tokenizer.json, so no text can be tokenised for it")
    note(f"Beginning with the weights, the tokenizer and the [model] of {source}")
    return dataclasses.replace(
        settings,
        model=config.replace(architectures=(), provenance={}),
        data=dataclasses.replace(settings.data, tokenizer=str(folder)),
    )


def initial_model(source: str, config: UltraFastBertConfig, tokenizer: Tokenizer) -> UltraFastBertForMaskedLM:
    """The checkpoint's weights in a masked LM of `config`; a head that it lacks is new.

    Raises `CheckpointError` for a tokenizer with more entries than the model.
    """
    entries = max(tokenizer.get_vocab().values()) + 1
    if entries > config.vocab_size:
        raise CheckpointError(f"{source}: its tokenizer has {entries:,} entries, its model {config.vocab_size:,}")
    model = UltraFastBertForMaskedLM(config)
    model.load_state_dict(UltraFastBertForMaskedLM.from_pretrained(source).state_dict())
    return model
