"""The encoder with a head: masked-language modelling, and classification or regression of sequences."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .config import UltraFastBertConfig
from .encoder import ACTIVATIONS, UltraFastBertModel, layer_norm
from .pooling import pool
from .pretrained import PretrainedModel

__all__ = [
    "IGNORED_LABEL",
    "ClassificationHead",
    "HeadTransform",
    "MaskedLMOutput",
    "SequenceClassifierOutput",
    "UltraFastBertForMaskedLM",
    "UltraFastBertForSequenceClassification",
    "labelled_positions",
    "masked_lm_loss",
    "sequence_loss",
]

IGNORED_LABEL = -100
"""Label of the positions that do not count in the loss, torch's and Hugging Face's convention."""


@dataclass
class MaskedLMOutput:
    """`logits` are (B, T, V), or (labelled positions, V) when labels were given: only those are computed."""

    logits: torch.Tensor
    last_hidden_state: torch.Tensor
    loss: torch.Tensor | None = None


@dataclass
class SequenceClassifierOutput:
    """`logits` (B, num_labels), `last_hidden_state` (B, T, H)."""

    logits: torch.Tensor
    last_hidden_state: torch.Tensor
    loss: torch.Tensor | None = None


def labelled_positions(labels: torch.Tensor) -> torch.Tensor:
    """labels (B, T) -> (positions,): where in the flattened batch something is to be predicted."""
    return (labels.reshape(-1) != IGNORED_LABEL).nonzero().squeeze(1)


def masked_lm_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of the labelled positions: logits (positions, V), targets (positions,)."""
    # The mean over no position is undefined; zero keeps a batch without labels harmless.
    return F.cross_entropy(logits.float(), targets) if len(targets) else logits.float().sum()


def sequence_loss(
    logits: torch.Tensor, labels: torch.Tensor, config: UltraFastBertConfig, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """logits (B, num_labels): mean squared error for regression, else mean cross-entropy in nats.

    labels (B,) are class numbers or values, (B, num_labels) where a text has several values; with several labels a
    text they are (B, num_labels) of 0 and 1, and the cross-entropy is that of each label by itself. `weights`
    (num_labels,) multiply the loss of the rows of a class (whose weighted mean is then taken), or that of a label
    where it is 1.
    """
    if config.regression:
        return F.mse_loss(logits.float().reshape(labels.shape), labels.float())
    if config.multi_label:
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float(), pos_weight=weights)
    return F.cross_entropy(logits.float(), labels, weight=weights)


class HeadTransform(nn.Module):
    """Dense, activation and LayerNorm before BERT's decoder; the crammed BERT has none."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__()
        width = config.embedding_width
        self.dense = nn.Linear(config.hidden_size, width)
        self.norm = layer_norm(config, width)
        self.activation = ACTIVATIONS[config.head_act or config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., H) -> (..., E), where E is H unless the embeddings are projected."""
        y: torch.Tensor = self.norm(self.activation(self.dense(x)))
        return y


class UltraFastBertForMaskedLM(PretrainedModel):
    """The encoder with the masked-LM decoder, tied to the word embedding by default."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__(config)
        self.encoder = UltraFastBertModel(config)
        self.transform = HeadTransform(config) if config.head_transform else None
        self.decoder = nn.Linear(config.decoder_width, config.vocab_size, bias=config.decoder_bias)
        for module in (self.transform, self.decoder):
            if module is not None:
                module.apply(self.initialize)
        self.tie_weights()

    def tie_weights(self) -> None:
        """Make the decoder's matrix the word embedding's, if the config says so."""
        if self.config.tie_word_embeddings:
            self.decoder.weight = self.encoder.embeddings.word.weight

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labelled: torch.Tensor | None = None,
    ) -> MaskedLMOutput:
        """All (B, T). `labels` are -100 wherever nothing is to be predicted.

        With labels, only the labelled positions reach the decoder: the loss is their mean cross-entropy in
        nats, and `logits` has one row for each of them, in the order of the flattened batch. A caller who knows
        those positions gives them as `labelled`, what `labelled_positions(labels)` is: to look for them on a GPU
        makes the CPU wait for it.
        """
        hidden = self.encoder.encode(input_ids, attention_mask, token_type_ids)
        if labels is None:
            return MaskedLMOutput(logits=self.decode(hidden), last_hidden_state=hidden)
        if labelled is None:
            labelled = labelled_positions(labels)
        logits = self.decode(hidden.reshape(-1, hidden.shape[-1]).index_select(0, labelled))
        loss = masked_lm_loss(logits, labels.reshape(-1).index_select(0, labelled))
        return MaskedLMOutput(logits=logits, last_hidden_state=hidden, loss=loss)

    def decode(self, hidden: torch.Tensor) -> torch.Tensor:
        """Hidden states (..., H) -> vocabulary logits (..., V)."""
        transformed = hidden if self.transform is None else self.transform(hidden)
        logits: torch.Tensor = self.decoder(transformed)
        return logits


class ClassificationHead(nn.Module):
    """Pooling, Linear to `classifier_hidden_size`, `classifier_act`, a norm or none, dropout, Linear to the scores."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__()
        self.pooling = config.classifier_pooling
        self.dense = nn.Linear(config.hidden_size, config.classifier_hidden_size)
        self.activation = ACTIVATIONS[config.classifier_act]
        self.norm = layer_norm(config, config.classifier_hidden_size) if config.classifier_norm else None
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.scores = nn.Linear(config.classifier_hidden_size, config.num_labels)

    def forward(self, hidden: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """hidden (B, T, H), mask (B, T) -> (B, num_labels)."""
        pooled = pool(hidden, attention_mask, self.pooling)  # (B, H)
        inner = self.activation(self.dense(pooled))
        scores: torch.Tensor = self.scores(self.dropout(inner if self.norm is None else self.norm(inner)))
        return scores


class UltraFastBertForSequenceClassification(PretrainedModel):
    """The encoder with the classification head; one score and mean squared error for regression."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__(config)
        self.encoder = UltraFastBertModel(config)
        self.classifier = ClassificationHead(config)
        self.classifier.apply(self.initialize)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> SequenceClassifierOutput:
        """input_ids, attention_mask, token_type_ids (B, T); labels as in `sequence_loss`."""
        hidden = self.encoder.encode(input_ids, attention_mask, token_type_ids)
        logits = self.classifier(hidden, attention_mask)
        loss = None if labels is None else sequence_loss(logits, labels, self.config)
        return SequenceClassifierOutput(logits=logits, last_hidden_state=hidden, loss=loss)
