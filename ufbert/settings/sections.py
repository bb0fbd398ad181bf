"""What a run is: the sections of `ufbert.toml` as dataclasses with their defaults, checked.

The default model is a small one, so that a run without arguments ends in minutes;
the preset `crammed-1x11` is the paper's recipe. `toml.py` reads and writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ufbert.errors import ConfigError
from ufbert.model.config import UltraFastBertConfig

from .checks import at_least, in_range, one_of
from .distillation import DistillationSettings
from .durations import parse_duration
from .inference import InferenceSettings

__all__ = [
    "ENDS",
    "DataSettings",
    "DistillationSettings",
    "FinetuningSettings",
    "Settings",
    "TrainingSettings",
    "parse_duration",
    "small_model",
]

ENDS: dict[str, dict[str, Any]] = {
    "training": {"steps": 0, "tokens": 0, "budget": ""},
    "distillation": {"budget": "", "minutes": 0.0, "steps": 0},
}
"""By section, the settings of which exactly one says when its training ends, and their values for "not this one"."""


def small_model() -> UltraFastBertConfig:
    """The model of a run without arguments: 2 layers of 256, one tree of depth 7 (8 of 255 neurons used)."""
    return UltraFastBertConfig(
        hidden_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        depth=7,
        intermediate_size=1024,
    )


LOGGERS = ("tensorboard", "wandb")


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Where the text comes from and how it becomes token blocks."""

    corpus: Sequence[str] = ("embedded",)
    """Files, globs, folders, `hub:NAME`, or `embedded`; a string is a list of one."""
    validation_corpus: Sequence[str] = ()
    """The same for the held-out text; empty takes `validation_fraction` of the corpus."""
    validation_fraction: float = 0.02
    """Share of the tokens held out, in whole documents, when `validation_corpus` is empty."""
    held_out_seed: int | str = "auto"
    """Seed of the choice of held-out documents; `auto` is `training.seed`, a number keeps them for all seeds."""
    text_column: str = "text"
    """Column or key of the text in jsonl, csv, parquet and hub data."""
    encoding: str = "utf-8"
    """Of text files."""
    delimiter: str = ""
    """Between the fields of csv and tsv, a character or `comma`, `semicolon`, `tab`, `pipe`; empty finds it out."""
    header: bool = True
    """Whether the first row of csv and tsv names the columns; else they are called 1, 2, 3, ..."""
    streaming: bool = False
    """Read a hub data set as a stream, without storing it."""
    max_documents: int = 0
    """Stop after so many documents; 0 reads all."""
    tokenizer: str = ""
    """Folder or file of a ready tokenizer; empty trains a WordPiece one of `model.vocab_size` entries."""
    lowercase: bool = True
    """Lowercase and strip accents before a new tokenizer splits words."""
    ascii_only: bool = False
    """Drop accents and all other non-ASCII characters: a rule of the tokenizer, a new one or a ready one."""
    min_frequency: int = 10
    """A new tokenizer makes no entry of a piece seen less often, so a small corpus gives a small vocabulary."""
    sequence_length: int = 32
    """Tokens in a packed block."""
    max_tokens_per_character: float = 0.0
    """Drop documents with more tokens per character than this; 0 keeps all. The paper's recipe has 0.25."""
    deduplicate: bool = False
    """Drop documents whose text is exactly that of an earlier one, or of one in `validation_corpus`."""
    sort_by_likelihood: bool = False
    """Train on the blocks of the likeliest words first, in every epoch, instead of in a random order."""
    workers: int = 0
    """Threads that tokenise; 0 takes all cores."""
    cache_dir: str = ""
    """Folder of the tokenised blocks, keyed by content; empty takes `~/.cache/ufbert`."""

    def __post_init__(self) -> None:
        for name in ("corpus", "validation_corpus"):
            given = getattr(self, name)
            entries = ((given,) if given else ()) if isinstance(given, str) else tuple(given)
            if not all(entry.strip() for entry in entries):
                raise ConfigError(f"data.{name} has an empty entry; give a path, a glob, hub:NAME or embedded")
            object.__setattr__(self, name, entries)
        if not self.corpus:
            raise ConfigError("data.corpus is empty; give a path, a glob, hub:NAME or embedded")
        in_range("data.validation_fraction", self.validation_fraction, 0.0, 0.5)
        if not isinstance(self.held_out_seed, str):
            at_least("data.held_out_seed", self.held_out_seed, 0)
        elif self.held_out_seed != "auto":
            raise ConfigError(f"data.held_out_seed must be a whole number or auto, not {self.held_out_seed!r}")
        at_least("data.sequence_length", self.sequence_length, 8)
        at_least("data.min_frequency", self.min_frequency, 1)
        at_least("data.max_documents", self.max_documents, 0)
        at_least("data.workers", self.workers, 0)
        at_least("data.max_tokens_per_character", self.max_tokens_per_character, 0)


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """The pretraining recipe. Exactly one of `steps`, `tokens` and `budget` says when it ends."""

    initial_checkpoint: str = ""
    """Folder or hub id of a checkpoint of ours, whose weights, tokenizer and model the run begins with; empty begins
    with random weights."""
    steps: int = 0
    """Optimiser steps of the run; 0 leaves the end to `tokens` or `budget`."""
    tokens: int = 0
    """Tokens of the run; 0 leaves the end to `steps` or `budget`."""
    budget: str = "90s"
    """Wall-clock time of the run (`90s`, `20m`, `24h`); empty leaves the end to `steps` or `tokens`."""
    batch_size: int = 32
    """Sequences of an optimiser step once the ramp is over. The paper's recipe has 8,192."""
    micro_batch_size: int = 32
    """Sequences of one forward and backward pass; the first step of the ramp has one of them."""
    batch_ramp_fraction: float = 0.6
    """Share of the run over which the batch grows linearly to `batch_size`."""
    peak_learning_rate: float = 2e-3
    """Top of the triangle. The paper's recipe has 1e-3, at three times the width."""
    initial_learning_rate_fraction: float = 0.25
    """Learning rate at the start, as a share of the peak."""
    peak_fraction: float = 0.75
    """Share of the run at which the learning rate peaks; from there it falls linearly to 0."""
    weight_decay: float = 0.01
    """AdamW's decay of everything but norms and biases."""
    adam_beta1: float = 0.9
    """AdamW."""
    adam_beta2: float = 0.98
    """AdamW."""
    adam_epsilon: float = 1e-12
    """AdamW."""
    gradient_clip: float = 0.5
    """Largest norm of the whole gradient."""
    level_updates: bool = False
    """Each level of a tree begins as one neuron and moves as a whole too, its nodes' own steps being shorter; other
    layers are trained as ever."""
    mlm_probability: float = 0.25
    """Share of the positions that are predicted, the same number in every sequence."""
    dropout: float = 0.0
    """Dropout in pretraining; the paper has none."""
    precision: str = "auto"
    """`float32`, `bfloat16` (autocast) or `auto`, which takes bfloat16 where the processor is faster with it."""
    tf32: bool = True
    """On a GPU, round the operands of float32 products to TF32's 11 bits; no other device is changed."""
    compile: bool = False
    """Compile the layers with torch.compile, which takes a while at the start."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    seed: int = 0
    """Seed of initialisation, order and masking."""
    save_every: str = "10m"
    """Wall-clock time between checkpoints."""
    keep_checkpoints: int = 0
    """Kept in `checkpoints/` of the run's folder: so many of the newest checkpoints, and the best; 0 keeps none."""
    evaluate_every: str = "15s"
    """Wall-clock time between measurements of the held-out loss; the start and the end are always measured."""
    evaluation_sequences: int = 512
    """Held-out blocks of one measurement, evenly spread over the held-out text; 0 takes all."""

    loggers: Sequence[str] = ()
    """Where each step is logged besides metrics.jsonl: `tensorboard`, `wandb`, each with the extra of its name."""

    def __post_init__(self) -> None:
        loggers = (self.loggers,) if isinstance(self.loggers, str) else self.loggers
        object.__setattr__(self, "loggers", tuple(name for name in loggers if name))
        for name in self.loggers:
            one_of("training.loggers", name, LOGGERS)
        for name in ("steps", "tokens"):
            at_least(f"training.{name}", getattr(self, name), 0)
        if sum(map(bool, (self.steps, self.tokens, self.budget))) != 1:
            raise ConfigError(
                f"exactly one of training.steps ({self.steps}), training.tokens ({self.tokens}) and "
                f"training.budget ({self.budget!r}) must be set"
            )
        for name in ("budget", "save_every", "evaluate_every"):
            if getattr(self, name) or name != "budget":
                parse_duration(getattr(self, name), f"training.{name}")
        at_least("training.batch_size", self.batch_size, 1)
        at_least("training.micro_batch_size", self.micro_batch_size, 1)
        at_least("training.seed", self.seed, 0)
        at_least("training.keep_checkpoints", self.keep_checkpoints, 0)
        at_least("training.evaluation_sequences", self.evaluation_sequences, 0)
        at_least("training.peak_learning_rate", self.peak_learning_rate, 0)
        at_least("training.weight_decay", self.weight_decay, 0)
        at_least("training.gradient_clip", self.gradient_clip, 0)
        in_range("training.batch_ramp_fraction", self.batch_ramp_fraction, 0.0, 1.0)
        in_range("training.initial_learning_rate_fraction", self.initial_learning_rate_fraction, 0.0, 1.0)
        in_range("training.peak_fraction", self.peak_fraction, 0.0, 1.0)
        in_range("training.adam_beta1", self.adam_beta1, 0.0, 0.9999999)
        in_range("training.adam_beta2", self.adam_beta2, 0.0, 0.9999999)
        at_least("training.adam_epsilon", self.adam_epsilon, 0)
        in_range("training.mlm_probability", self.mlm_probability, 0.01, 0.99)
        in_range("training.dropout", self.dropout, 0.0, 0.99)
        one_of("training.precision", self.precision, ("auto", "float32", "bfloat16"))
        one_of("training.device", self.device, ("auto", "cpu", "cuda"))


@dataclass(frozen=True, kw_only=True)
class FinetuningSettings:
    """The finetuning recipe, the same for every task."""

    epochs: int = 5
    """Passes over the training rows."""
    batch_size: int = 16
    """Rows of an optimiser step."""
    learning_rate: float = 4e-5
    """Peak learning rate."""
    warmup_fraction: float = 0.1
    """Share of the steps over which the learning rate rises from 0."""
    schedule: str = "cosine"
    """Decay after the warm-up: `cosine`, `linear` or `constant`."""
    weight_decay: float = 0.0
    """AdamW's decay."""
    adam_beta1: float = 0.9
    """AdamW."""
    adam_beta2: float = 0.98
    """AdamW."""
    adam_epsilon: float = 1e-6
    """AdamW."""
    gradient_clip: float = 0.0
    """Largest norm of the whole gradient; 0 does not clip."""
    dropout: float = 0.1
    """Dropout of encoder and head."""
    pooling: str = "mean"
    """What a classifier reads: the `first` token or the `mean`; tags are read off each token."""
    max_length: int = 128
    """Tokens of a row, both sentences and special tokens included; longer ones are cut, or for tags read in
    windows."""
    class_weights: str | tuple[float, ...] = ""
    """Weights of the classes in the training loss: `balanced`, a list in the order of the classes, or none."""
    patience: int = 0
    """Epochs without a better one after which a run stops; 0 runs them all."""
    keep: str = "best"
    """The checkpoint saved at the end: the `best` epoch by the task's metric, or the `last`."""
    precision: str = "auto"
    """`float32`, `bfloat16` (autocast) or `auto`."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    seed: int = 0
    """Seed of the head's initialisation, the order and dropout."""

    def __post_init__(self) -> None:
        at_least("finetuning.epochs", self.epochs, 1)
        at_least("finetuning.batch_size", self.batch_size, 1)
        at_least("finetuning.learning_rate", self.learning_rate, 0)
        at_least("finetuning.gradient_clip", self.gradient_clip, 0)
        at_least("finetuning.weight_decay", self.weight_decay, 0)
        at_least("finetuning.max_length", self.max_length, 4)
        at_least("finetuning.seed", self.seed, 0)
        in_range("finetuning.warmup_fraction", self.warmup_fraction, 0.0, 1.0)
        in_range("finetuning.dropout", self.dropout, 0.0, 0.99)
        one_of("finetuning.schedule", self.schedule, ("cosine", "linear", "constant"))
        one_of("finetuning.pooling", self.pooling, ("first", "mean"))
        at_least("finetuning.patience", self.patience, 0)
        if isinstance(self.class_weights, str):
            one_of("finetuning.class_weights", self.class_weights, ("", "balanced"))
        elif not all(isinstance(w, int | float) and not isinstance(w, bool) and w > 0 for w in self.class_weights):
            raise ConfigError(
                f"finetuning.class_weights must be a number above 0 for each class, not {list(self.class_weights)!r}"
            )
        one_of("finetuning.keep", self.keep, ("best", "last"))
        one_of("finetuning.precision", self.precision, ("auto", "float32", "bfloat16"))
        one_of("finetuning.device", self.device, ("auto", "cpu", "cuda"))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All sections of `ufbert.toml`."""

    model: UltraFastBertConfig = field(default_factory=small_model)
    data: DataSettings = field(default_factory=DataSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    finetuning: FinetuningSettings = field(default_factory=FinetuningSettings)
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    inference: InferenceSettings = field(default_factory=InferenceSettings)

    @property
    def held_out_seed(self) -> int:
        """The seed that chooses the held-out documents."""
        seed = self.data.held_out_seed
        return self.training.seed if isinstance(seed, str) else seed

    def __post_init__(self) -> None:
        if self.data.sequence_length > self.model.max_position_embeddings:
            raise ConfigError(
                f"data.sequence_length ({self.data.sequence_length}) is above "
                f"model.max_position_embeddings ({self.model.max_position_embeddings})"
            )
