"""The checkpoint that `ufbert bench encoder --model` times: read, described, and written for our processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from ufbert.benchmark.models.paths import describe_paths
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.checkpoint.embedder import Embedder
from ufbert.checkpoint.folder import locate_checkpoint
from ufbert.checkpoint.sentence_transformers import transformer_folder
from ufbert.conversion.readers.checkpoint import encoder_of, load_checkpoint
from ufbert.errors import CheckpointError, ConfigError
from ufbert.inference.embed import lowercase_first
from ufbert.model.encoder import UltraFastBertModel

from .export import check_inputs
from .job import TEXT_FILE, Job
from .tokenising import text_rows, write_texts
from .weights import PATH_TOKENS

__all__ = ["CheckpointModel", "read_checkpoint_model"]


@dataclass(frozen=True)
class CheckpointModel:
    """The encoder of a checkpoint, without its head and pooling, which are not timed."""

    name: str
    """What the user typed."""
    model_type: str
    folder: Path
    """Of the weights."""
    encoder: UltraFastBertModel
    tokenizer: Tokenizer

    @property
    def layer(self) -> str:
        """`ff` or `fff`, of the feedforward layers."""
        return "fff" if self.encoder.config.feedforward_kind == "fff" else "ff"

    def describe(self) -> dict[str, Any]:
        """What the report and the JSON file say of it."""
        config = self.encoder.config
        described = {
            "name": self.name,
            "model_type": self.model_type,
            "hidden_size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "heads": config.num_attention_heads,
            "key_value_heads": config.key_value_heads,
            "feedforward": config.feedforward,
            "neurons_available": config.neurons_available,
            "parameters": sum(parameter.numel() for parameter in self.encoder.parameters()),
        }
        if config.feedforward_layers:
            described |= {"feedforward": "mixed", "feedforward_layers": list(config.feedforward_layers)}
        elif config.feedforward == "fff":
            described |= {"trees": config.trees, "depth": config.depth, "shared_neurons": config.shared_neurons}
        return described

    def write(self, job: Job, folder: str, settings: BenchmarkSettings) -> dict[str, Any]:
        """Write the model into `folder` of the job's, the text, and `checked.npy`, `reference-ff.npy` or `-fff.npy`.

        The reference is the hidden states by the plain modules in float32. Returns the path statistics.
        """
        config = self.encoder.config
        rows = text_rows(self.tokenizer, settings.sequence_length, config.pad_token_id)
        np.save(job.path / TEXT_FILE, rows)
        write_texts(job)
        checked = check_inputs(job)
        np.save(job.path / "checked.npy", checked)
        self.encoder.save_pretrained(job.path / folder, tokenizer=self.tokenizer)
        with torch.inference_mode():
            states = self.encoder.encode(torch.from_numpy(checked))
        np.save(job.path / f"reference-{self.layer}.npy", states.numpy())
        (ids,) = job.draw(1, max(1, PATH_TOKENS // settings.sequence_length))
        return describe_paths(self.encoder, torch.from_numpy(ids), settings.seed)


def read_checkpoint_model(settings: BenchmarkSettings) -> tuple[CheckpointModel, list[str]]:
    """The checkpoint that `settings.model` names, and the notes on reading it.

    Raises `CheckpointError` for one that cannot be read or lacks a tokenizer, `ConfigError` for sequences longer than
    its positions.
    """
    name = str(settings.model)
    root = locate_checkpoint(name)
    loaded = load_checkpoint(root, drop_head=True)
    if loaded.tokenizer is None:
        raise CheckpointError(f"{name}: has no tokenizer that can be read; put the model's own there, for its text")
    encoder = encoder_of(loaded.model)
    longest = encoder.config.max_position_embeddings
    if settings.sequence_length > longest:
        raise ConfigError(f"--sequence-length {settings.sequence_length}: {name} takes {longest} tokens at most")
    tokenizer = lowercase_first(loaded.tokenizer) if loaded.model.embedder.do_lower_case else loaded.tokenizer
    encoder.embedder = Embedder()  # how texts' embeddings are made of hidden states
    encoder.config = encoder.config.replace(provenance={})
    folder = transformer_folder(root) or root
    return CheckpointModel(name, loaded.model_type, folder, encoder, tokenizer), loaded.notes
