"""The core's encoder and heads under transformers' base class: its signatures, its outputs, our function.

Every class holds the core's own modules under the names they have in `model.safetensors`, so the files of both
sides are the same.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from ufbert.errors import ConfigError
from ufbert.model.encoder import Embeddings, Layer
from ufbert.model.encoder import UltraFastBertModel as Encoder
from ufbert.model.fff import FFF
from ufbert.model.heads import ClassificationHead, HeadTransform, labelled_positions, masked_lm_loss, sequence_loss
from ufbert.model.token_rows import TokenRows

from .configuration import UltraFastBertConfig

__all__ = [
    "UltraFastBertForMaskedLM",
    "UltraFastBertForSequenceClassification",
    "UltraFastBertModel",
    "UltraFastBertPreTrainedModel",
]

Output = TypeVar("Output", BaseModelOutput, MaskedLMOutput, SequenceClassifierOutput, TokenClassifierOutput)


class CheckpointedLayer(GradientCheckpointingLayer, Layer):
    """The core's layer, computed again in the backward pass where transformers' gradient checkpointing says so."""


class UltraFastBertPreTrainedModel(PreTrainedModel):
    """The encoder, and what all models of it share."""

    config_class = UltraFastBertConfig
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    # The loss is a mean over the batch at hand, so Trainer divides it by the batches that it accumulates.
    accepts_loss_kwargs = False
    _supports_sdpa = True
    _no_split_modules = ["CheckpointedLayer"]  # noqa: RUF012  the base class declares it like this

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__(config)
        self.core_config = config.to_core()
        self.encoder = Encoder(self.core_config, CheckpointedLayer)

    def get_input_embeddings(self) -> nn.Module:
        """The word embedding."""
        return self.encoder.embeddings.word

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embedding, as `resize_token_embeddings` does."""
        self.encoder.embeddings.add_module("word", value)
        self.encoder.embeddings.rank_new_tokens(len(value.get_parameter("weight")))

    def _init_weights(self, module: nn.Module) -> None:
        # Called for whatever no file held: heads, and the position table, which no file ever holds.
        if isinstance(module, FFF | nn.LayerNorm | TokenRows):
            module.reset_parameters()
        elif isinstance(module, Embeddings):
            if module.config.position_embedding_type == "scaled-sinusoidal":
                nn.init.constant_(module.position_scale, 1.0 / math.sqrt(module.config.embedding_width))
                before = module.positions
                module.fill_buffers()
                module.positions = module.positions.to(before.device, before.dtype)
        else:
            self.encoder.initialize(module)

    def _encode(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        output_attentions: bool | None,
        output_hidden_states: bool | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
        """(B, T) -> (B, T, H), and the hidden states if they are wanted."""
        if self.config.output_attentions if output_attentions is None else output_attentions:
            raise ConfigError("output_attentions: the attention is fused and keeps no weights; leave the option out")
        wanted = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        states: list[torch.Tensor] | None = [] if wanted else None
        # With one type or none there is nothing to choose; a tokenizer may number the second text 1 all the same.
        types = token_type_ids if self.core_config.type_vocab_size > 1 else None
        hidden = self.encoder.encode(
            input_ids, attention_mask, types, states, inputs_embeds=inputs_embeds, position_ids=position_ids
        )
        return hidden, None if states is None else tuple(states)

    def _finish(self, output: Output, return_dict: bool | None) -> Output | tuple[torch.Tensor, ...]:
        return output if (self.config.return_dict if return_dict is None else return_dict) else output.to_tuple()


class UltraFastBertModel(UltraFastBertPreTrainedModel):
    """The encoder without a head, for `AutoModel`."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__(config)
        self.post_init()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[torch.Tensor, ...]:
        """input_ids, attention_mask (1 = token, 0 = padding), token_type_ids (B, T) -> last_hidden_state (B, T, H).

        `inputs_embeds` (B, T, H) stand for the word embeddings in place of `input_ids`; `position_ids` (B, T) or
        (1, T) are rows of the position table, or what rotary positions turn by. `hidden_states` are the embeddings and
        each layer's result, the last one after the final norm. Raises `DataError` when T exceeds
        `max_position_embeddings` and unless one of `input_ids` and `inputs_embeds` is given, `ConfigError` for
        `output_attentions`.
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
        return self._finish(BaseModelOutput(last_hidden_state=hidden, hidden_states=states), return_dict)


class UltraFastBertForMaskedLM(UltraFastBertPreTrainedModel):
    """The encoder with the masked-LM decoder, for `AutoModelForMaskedLM`."""

    _tied_weights_keys = {"decoder.weight": "encoder.embeddings.word.weight"}  # noqa: RUF012  as the base class

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__(config)
        core = self.core_config
        self.transform = HeadTransform(core) if core.head_transform else None
        self.decoder = nn.Linear(core.decoder_width, core.vocab_size, bias=core.decoder_bias)
        self.post_init()

    def get_output_embeddings(self) -> nn.Module:
        """The decoder, tied to the word embedding if the config says so."""
        return self.decoder

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        """Replace the decoder, as `resize_token_embeddings` does."""
        self.decoder = new_embeddings

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
    ) -> MaskedLMOutput | tuple[torch.Tensor, ...]:
        """All (B, T), `labels` -100 wherever nothing is to be predicted -> logits (B, T, V) of every position.

        `loss` is the mean cross-entropy of the labelled positions in nats. Errors as in `UltraFastBertModel`.
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
        logits = self.decoder(hidden if self.transform is None else self.transform(hidden))  # (B, T, V)
        loss = None
        if labels is not None:
            labelled = labelled_positions(labels)
            rows = logits.reshape(-1, logits.shape[-1]).index_select(0, labelled)  # (positions, V)
            loss = masked_lm_loss(rows, labels.reshape(-1).index_select(0, labelled))
        return self._finish(MaskedLMOutput(loss=loss, logits=logits, hidden_states=states), return_dict)


class UltraFastBertForSequenceClassification(UltraFastBertPreTrainedModel):
    """The encoder with the classification head, for `AutoModelForSequenceClassification`."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        if config.problem_type is None and config.num_labels == 1 and config.score_activation is None:
            config.problem_type = "regression"  # what one score is to us; transformers' pipeline would squash it
        super().__init__(config)
        self.classifier = ClassificationHead(self.core_config)
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
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """input_ids, attention_mask, token_type_ids (B, T) -> logits (B, num_labels).

        `labels` (B,) or (B, 1) are class numbers, or values for regression; (B, num_labels) of 0 and 1 for
        `multi_label_classification`, which labels with a decimal point make of a config without a `problem_type`.
        Errors as in `UltraFastBertModel`.
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
        logits = self.classifier(hidden, attention_mask)
        loss = None if labels is None else self._loss(logits, labels)
        return self._finish(SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=states), return_dict)

    def _loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """By `config.problem_type` as it is now: users set it on a loaded model, and labels settle a missing one."""
        if self.config.problem_type is None:  # with one score it is regression already
            several = labels.is_floating_point()
            self.config.problem_type = "multi_label_classification" if several else "single_label_classification"
        config = self.core_config.replace(problem_type=self.config.problem_type)
        if not config.multi_label and labels.numel() == len(logits):
            labels = labels.reshape(-1)  # a column of labels would be compared with each row's score
        if not config.multi_label and not config.regression:
            labels = labels.long()
        return sequence_loss(logits, labels, config)
