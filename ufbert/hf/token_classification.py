"""The core's encoder with the tagging head for `AutoModelForTokenClassification`."""

from __future__ import annotations

import torch
from transformers.modeling_outputs import TokenClassifierOutput

from ufbert.model.token_head import TokenHead, token_loss

from .configuration import UltraFastBertConfig
from .models import UltraFastBertPreTrainedModel

__all__ = ["UltraFastBertForTokenClassification"]


class UltraFastBertForTokenClassification(UltraFastBertPreTrainedModel):
    """A tag for each token, by the scores of one Linear."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__(config)
        self.tagger = TokenHead(self.core_config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> TokenClassifierOutput | tuple[torch.Tensor, ...]:
        """All (B, T), `labels` -100 where no tag is to be learned -> logits (B, T, num_labels).

        `loss` is the mean cross-entropy of the labelled tokens in nats. Errors as in `UltraFastBertModel`.
        """
        hidden, states = self._encode(
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            inputs_embeds,
            output_attentions,
            output_hidden_states,
        )
        logits = self.tagger(hidden)
        loss = None if labels is None else token_loss(logits, labels)
        return self._finish(TokenClassifierOutput(loss=loss, logits=logits, hidden_states=states), return_dict)
