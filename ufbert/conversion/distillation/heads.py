"""What a model with a head is distilled for: the head's own outputs, beside the hidden states.

The head stays as it is; original and student are read by the same one. What the two outputs differ by is the
Kullback-Leibler divergence from the original's to the student's probabilities, in nats and without a temperature: of a
softmax, or of each label by itself where a text may have several. Values are compared by their squared error.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F

from ufbert.checkpoint.tokenizer import special_token_ids
from ufbert.conversion.readers.checkpoint import LoadedCheckpoint
from ufbert.errors import ConfigError
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.model.pretrained import PretrainedModel
from ufbert.model.token_head import UltraFastBertForTokenClassification

from .batch import Batch

__all__ = ["Head", "choose_task", "head_of"]

TASKS: dict[type[PretrainedModel], str] = {
    UltraFastBertForMaskedLM: "mlm",
    UltraFastBertForSequenceClassification: "classify",
    UltraFastBertForTokenClassification: "tag",
}


def choose_task(name: str, loaded: LoadedCheckpoint, pair_column: str) -> str:
    """`embed`, `classify`, `tag` or `mlm`: the `name` asked for, or with `auto` what the model has a head for.

    A masked LM whose folder says how to make embeddings of texts is a sentence embedder. Raises `ConfigError` for a
    task that the model has no head for, and for pairs of texts where the task takes none.
    """
    own = TASKS.get(type(loaded.model), "embed")
    task = name
    if name == "auto":
        task = "embed" if own == "mlm" and loaded.model.embedder.declared else own
    elif name not in (own, "embed"):
        usable = "embed" if own == "embed" else f"{own} or embed"
        raise ConfigError(f"--task {name}: {loaded.name} has no head for it; give {usable}, or leave it out")
    if pair_column and task != "classify":
        raise ConfigError(f"--pair-column {pair_column}: the task {task} takes single texts; leave it out")
    return task


def head_of(task: str, model: PretrainedModel, loaded: LoadedCheckpoint) -> Head | None:
    """The head of `model`, a copy of `loaded.model`, for the task; None for `embed`."""
    if task == "embed":
        return None
    assert loaded.tokenizer is not None
    kinds: dict[str, Callable[[PretrainedModel, list[int]], Head]] = {"classify": Texts, "tag": Tokens, "mlm": Masks}
    return kinds[task](model, special_token_ids(loaded.tokenizer))


class Head(abc.ABC):
    """A frozen head, and how far apart two of its outputs are."""

    unit: ClassVar[str]
    """What a row of outputs is of."""
    best: ClassVar[str]
    """What original and student agree on or not."""

    def __init__(self, model: PretrainedModel, special_ids: list[int]) -> None:
        self.model = model
        self.special_ids = torch.tensor(special_ids, device=model.device)
        self.kind = _kind(model.config)

    @abc.abstractmethod
    def logits(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """The encoder's output (B, T, H), float32 -> (rows, K) of the rows that count."""

    def divergence(self, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """(rows, K) twice -> (rows,): KL divergence in nats, of values the mean squared error."""
        if self.kind == "values":
            return (mine - theirs).square().mean(1)
        if self.kind == "binary":
            wanted = theirs.sigmoid()
            cross = F.binary_cross_entropy_with_logits(mine, wanted, reduction="none")
            own = F.binary_cross_entropy_with_logits(theirs, wanted, reduction="none")
            return (cross - own).sum(1)
        mine, theirs = mine.log_softmax(1), theirs.log_softmax(1)
        return (theirs.exp() * (theirs - mine)).sum(1)

    def loss(self, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """The mean of `divergence`; that of values in units of their variance, as nothing else gives them a scale."""
        if not len(theirs):  # the mean over no row is undefined
            return mine.sum()
        mean = self.divergence(mine, theirs).mean()
        if self.kind != "values":
            return mean
        return mean / (theirs - theirs.mean(0)).square().mean().clamp(min=1e-6)

    def agrees(self, mine: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
        """(rows, K) twice -> (rows,): whether both say the same; of values none does."""
        if self.kind == "binary":
            return ((mine > 0) == (theirs > 0)).all(1)
        return (mine.argmax(1) == theirs.argmax(1)) & (self.kind != "values")


class Texts(Head):
    """A classifier's or cross-encoder's, of a text or a pair."""

    unit, best = "texts", "label"

    def logits(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(B, num_labels)."""
        logits: torch.Tensor = self.model.get_submodule("classifier")(hidden, batch.attention_mask)
        return logits


class Tokens(Head):
    """A token classifier's, of all tokens but special ones."""

    unit, best = "tokens", "tag"

    def logits(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(tokens, num_labels)."""
        ordinary = batch.attention_mask.bool() & ~torch.isin(batch.input_ids, self.special_ids)
        logits: torch.Tensor = self.model.get_submodule("tagger")(hidden[ordinary])
        return logits


class Masks(Head):
    """A masked LM's, of the positions that are masked."""

    unit, best = "masked positions", "token"

    def logits(self, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
        """(positions, V)."""
        assert isinstance(self.model, UltraFastBertForMaskedLM)
        assert batch.masked is not None
        return self.model.decode(hidden[batch.masked])


def _kind(config: UltraFastBertConfig) -> str:
    """`softmax`, `binary` or `values`, as `ufbert infer` understands the outputs."""
    if UltraFastBertForSequenceClassification.__name__ not in config.architectures:
        return "softmax"
    if config.multi_label or (config.num_labels == 1 and config.score_activation == "sigmoid"):
        return "binary"
    if config.num_labels == 1 or (config.regression and config.score_activation is None):
        return "values"
    return "softmax"
