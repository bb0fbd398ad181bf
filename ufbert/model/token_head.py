"""The encoder with a head that gives each token a tag: named entities, parts of speech."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .config import UltraFastBertConfig
from .encoder import UltraFastBertModel
from .heads import HeadTransform, labelled_positions
from .pretrained import PretrainedModel

__all__ = ["TokenClassifierOutput", "TokenHead", "UltraFastBertForTokenClassification", "token_loss"]


@dataclass
class TokenClassifierOutput:
    """`logits` (B, T, num_labels), `last_hidden_state` (B, T, H)."""

    logits: torch.Tensor
    last_hidden_state: torch.Tensor
    loss: torch.Tensor | None = None


def token_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Mean cross-entropy in nats: logits (B, T, num_labels), labels (B, T) with -100 where nothing is to be said.

    `weights` (num_labels,) multiply the loss of a tag's tokens, whose weighted mean is then taken.
    """
    labelled = labelled_positions(labels)
    if not len(labelled):  # the mean over no position is undefined
        return logits.float().sum() * 0.0
    rows = logits.reshape(-1, logits.shape[-1]).index_select(0, labelled)  # (positions, num_labels)
    return F.cross_entropy(rows.float(), labels.reshape(-1).index_select(0, labelled), weight=weights)


class TokenHead(nn.Module):
    """Dropout and a Linear to the scores of the tags, as nearly every class of transformers has it.

    With `tagger_transform` a `HeadTransform` stands before them.
    """

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__()
        self.transform = HeadTransform(config) if config.tagger_transform else None
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.scores = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """(B, T, H) -> (B, T, num_labels)."""
        if self.transform is not None:
            hidden = self.transform(hidden)
        scores: torch.Tensor = self.scores(self.dropout(hidden))
        return scores


class UltraFastBertForTokenClassification(PretrainedModel):
    """The encoder with the tagging head; `config.id2label` names the tags."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__(config)
        self.encoder = UltraFastBertModel(config)
        self.tagger = TokenHead(config)
        self.tagger.apply(self.initialize)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> TokenClassifierOutput:
        """All (B, T); labels as in `token_loss`."""
        hidden = self.encoder.encode(input_ids, attention_mask, token_type_ids)
        logits = self.tagger(hidden)
        loss = None if labels is None else token_loss(logits, labels)
        return TokenClassifierOutput(logits=logits, last_hidden_state=hidden, loss=loss)
