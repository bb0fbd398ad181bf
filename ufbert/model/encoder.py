"""The encoder: the paper's crammed BERT, and by its switches BERT and the families of its kind.

Pre-norm: x + attention(norm(x)), then x + feedforward(norm(x)), and one norm at the end.
Post-norm: norm(x + attention(x)), then norm(x + feedforward(x)).
Of a layer whose feedforward is "none" the second step, its norm included, is absent: the zero of every comparison.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ufbert.errors import DataError

from .attention import SelfAttention
from .config import UltraFastBertConfig
from .fff import FFF
from .positions import View, nearby, relative_bias, rotation_of, sinusoids
from .pretrained import PretrainedModel
from .token_rows import TokenRows

__all__ = ["ACTIVATIONS", "Embeddings", "EncoderOutput", "Layer", "UltraFastBertModel", "layer_norm", "set_dropout"]

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


@dataclass
class EncoderOutput:
    """`last_hidden_state` (B, T, H), after the final norm."""

    last_hidden_state: torch.Tensor


def layer_norm(config: UltraFastBertConfig, width: int) -> nn.LayerNorm:
    """A LayerNorm of `width` numbers, as all of a model's are."""
    return nn.LayerNorm(width, eps=config.layer_norm_eps, bias=config.norm_bias)


class Embeddings(nn.Module):
    """Sum of word, position and (where the config has them) token-type embeddings, normed, and projected if so."""

    positions: torch.Tensor
    token_ranks: torch.Tensor | None
    """(V,) int64: how many tokens of the vocabulary are more frequent; only where layers have token rows."""

    def __init__(self, config: UltraFastBertConfig) -> None:
        super().__init__()
        self.config = config
        width = config.embedding_width  # E
        self.word = nn.Embedding(config.vocab_size, width, padding_idx=config.pad_token_id)
        if config.position_embedding_type == "scaled-sinusoidal":
            self.register_buffer("positions", torch.empty(config.max_position_embeddings, width), False)
            self.position_scale = nn.Parameter(torch.tensor([1.0 / math.sqrt(width)]))
        elif config.position_embedding_type == "absolute":
            rows = config.max_position_embeddings + config.position_offset
            self.position = nn.Embedding(rows, width)
        if config.type_vocab_size:
            self.token_type = nn.Embedding(config.type_vocab_size, width)
        # Vocabularies that were built merge by merge are near this order; a conversion counts its corpus.
        self.register_buffer("token_ranks", torch.arange(config.vocab_size) if config.has_token_rows else None)
        self.norm = layer_norm(config, width) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.projection = None if config.embedding_size is None else nn.Linear(width, config.hidden_size)
        if not self.word.weight.is_meta:  # a checkpoint's reader fills them once the weights are there
            self.fill_buffers()

    def fill_buffers(self) -> None:
        """Compute the fixed position table, which no checkpoint stores."""
        if self.config.position_embedding_type == "scaled-sinusoidal":
            rows, columns = self.positions.shape
            self.positions = sinusoids(rows, columns)

    def ranks(self, input_ids: torch.Tensor) -> torch.Tensor | None:
        """Of tokens, in the shape of their ids; None where no layer asks for them."""
        return None if self.token_ranks is None else self.token_ranks[input_ids]

    def rank_new_tokens(self, vocab_size: int) -> None:
        """After the vocabulary has become so large: new tokens are the rarest, with the row of all others."""
        known = self.token_ranks
        if known is not None:
            new = torch.arange(len(known), vocab_size, dtype=known.dtype, device=known.device)
            self.token_ranks = torch.cat((known[:vocab_size], new))

    def forward(
        self,
        input_ids: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids and token_type_ids (B, T) -> (B, T, H).

        `inputs_embeds` (B, T, E), where E is H unless there is a projection, stand for the word embeddings if there
        are no `input_ids`; `position_ids` (B, T) or (1, T) are rows of the position table, else they are counted;
        rotary positions are the layers' own matter.
        """
        if inputs_embeds is not None:
            x = inputs_embeds
        else:
            assert input_ids is not None
            x = self.word(input_ids)
        length, offset = x.shape[1], self.config.position_offset
        if self.config.position_embedding_type == "scaled-sinusoidal":
            x = x + self.position_scale * self.positions[slice(length) if position_ids is None else position_ids]
        elif self.config.position_embedding_type == "rotary":
            pass  # attention turns by them
        elif position_ids is not None:
            x = x + self.position(position_ids)
        elif offset and input_ids is not None:
            # RoBERTa's numbering: padding has row pad_token_id, the first token the one after it.
            token = (input_ids != self.config.pad_token_id).long()
            x = x + self.position(token.cumsum(1) * token + offset - 1)
        else:
            x = x + self.position.weight[offset : offset + length]
        if self.config.type_vocab_size:
            if token_type_ids is None:
                x = x + self.token_type.weight[0]
            else:
                x = x + self.token_type(token_type_ids)
        if self.norm is not None:
            x = self.norm(x)
        x = self.dropout(x)
        projected: torch.Tensor = x if self.projection is None else self.projection(x)
        return projected


class DenseFeedforward(nn.Module):
    """The dense twin of `FFF`: Linear, activation, Linear.

    If gated, `linear_in` has twice the rows: those of the activated products, then those that multiply them. Source:
    Shazeer 2020 (GLU variants, arXiv 2002.05202), section 2.
    """

    def __init__(self, config: UltraFastBertConfig, neurons: int) -> None:
        super().__init__()
        self.gated, self.neurons = config.is_gated_act, neurons
        rows = self.neurons * (2 if self.gated else 1)
        self.linear_in = nn.Linear(config.hidden_size, rows, bias=config.use_bias)
        self.linear_out = nn.Linear(neurons, config.hidden_size, bias=config.use_bias)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., H) -> (..., H)."""
        y: torch.Tensor = self.linear_out(self.activations(x))
        return y

    def activations(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., H) -> what each neuron puts out, (..., I)."""
        inner = self.linear_in(x)
        if not self.gated:
            return self.activation(inner)
        gate, factor = inner.chunk(2, -1)
        y: torch.Tensor = self.activation(gate) * factor
        return y


class Layer(nn.Module):
    """Attention and feedforward, each with its norm and residual connection; or attention alone. `index`: from 0 on."""

    def __init__(self, config: UltraFastBertConfig, index: int = 0) -> None:
        super().__init__()
        self.pre_norm = config.norm_position == "pre"
        bare = config.skip_first_prenorm and index == 0
        self.attention_norm: nn.Module = nn.Identity() if bare else layer_norm(config, config.hidden_size)
        self.attention = SelfAttention(config)
        shape = config.layer_shape(index)
        self.feedforward_norm = None if shape.absent else layer_norm(config, config.hidden_size)
        self.feedforward: FFF | DenseFeedforward | None
        if shape.kind == "none":
            self.feedforward = None
        elif shape.kind == "fff":
            self.feedforward = FFF(
                config.hidden_size,
                shape.trees,
                shape.depth,
                shared_neurons=shape.shared_neurons,
                output_bias=config.use_bias,
                initializer_range=config.initializer_range,
            )
        else:
            self.feedforward = DenseFeedforward(config, shape.intermediate_size)
        self.token_rows = TokenRows(shape.token_rows, config.hidden_size) if shape.token_rows else None
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, x: torch.Tensor, *view: torch.Tensor | None, ranks: torch.Tensor | None = None) -> torch.Tensor:
        """x (B, T, H), the parts of a `View`, and the tokens' ranks (B, T) for token rows -> (B, T, H)."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), *view))
        else:
            x = self.attention_norm(x + self.dropout(self.attention(x, *view)))
        if self.feedforward_norm is None:
            return x
        if self.pre_norm:
            fed: torch.Tensor = x + self.dropout(self._fed(self.feedforward_norm(x), ranks))
            return fed
        normed: torch.Tensor = self.feedforward_norm(x + self.dropout(self._fed(x, ranks)))
        return normed

    def _fed(self, x: torch.Tensor, ranks: torch.Tensor | None) -> torch.Tensor:
        """What neurons and token rows put out together; at least one of them is there."""
        if self.token_rows is None or ranks is None:
            assert self.feedforward is not None
            fed: torch.Tensor = self.feedforward(x)
            return fed
        rows: torch.Tensor = self.token_rows(ranks).to(x.dtype)
        return rows if self.feedforward is None else self.feedforward(x) + rows


class UltraFastBertModel(PretrainedModel):
    """The encoder without a head. `layer_class` is for layers that are called in a way of their own."""

    def __init__(self, config: UltraFastBertConfig, layer_class: type[Layer] = Layer) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        buckets = config.relative_attention_num_buckets
        self.relative_attention_bias = nn.Embedding(buckets, config.num_attention_heads) if buckets else None
        self.layers = nn.ModuleList(layer_class(config, index) for index in range(config.num_hidden_layers))
        self.final_norm = layer_norm(config, config.hidden_size) if config.final_norm else None
        self.apply(self.initialize)
        if config.zero_output_init:
            self._begin_silent()

    def _begin_silent(self) -> None:
        """Zeros into the feedforward layers' output weights: random ones drown what attention has yet to learn.

        After 10 million tokens of a 4 x 128 model it is worth 0.063 nats to 511 dense neurons, 0.009 to a 1x8 tree and
        nothing to 64 dense neurons.
        """
        for name, parameter in self.named_parameters():
            if name.endswith(("feedforward.linear_out.weight", "feedforward.w_out", "shared.linear_out.weight")):
                nn.init.zeros_(parameter)

    def encode(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        states: list[torch.Tensor] | None = None,
        *,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """input_ids, attention_mask (1 = token, 0 = padding), token_type_ids (B, T) -> (B, T, H).

        A list given as `states` takes the embeddings and what each layer makes of them, the result last.
        `inputs_embeds` and `position_ids` are those of `Embeddings`. Raises `DataError` when T exceeds
        `max_position_embeddings`, unless one of `input_ids` and `inputs_embeds` is given, and for `inputs_embeds` where
        layers have token rows.
        """
        inputs = input_ids if inputs_embeds is None else inputs_embeds
        if inputs is None or (input_ids is not None and inputs_embeds is not None):
            raise DataError("input_ids or inputs_embeds: give exactly one of the two")
        if input_ids is None and self.config.has_token_rows:
            raise DataError("inputs_embeds: the model's layers have rows for tokens; give input_ids, which name them")
        if inputs.shape[1] > self.config.max_position_embeddings:
            raise DataError(
                f"{inputs.shape[1]} tokens are more than the model's maximum of "
                f"{self.config.max_position_embeddings}; truncate or split the text"
            )
        mask = None if attention_mask is None else attention_mask[:, None, None, :].bool()
        x = self.embeddings(input_ids, token_type_ids, inputs_embeds, position_ids)
        positions = torch.arange(x.shape[1], device=x.device) if position_ids is None else position_ids[:, None]
        views = self._views(mask, x.shape[1], positions)
        ranks = None if input_ids is None else self.embeddings.ranks(input_ids)
        for index, layer in enumerate(self.layers):
            if states is not None:
                states.append(x)
            x = layer(x, *views[self.config.is_local(index)], ranks=ranks)
        result: torch.Tensor = x if self.final_norm is None else self.final_norm(x)
        if states is not None:
            states.append(result)
        return result

    def _views(self, mask: torch.Tensor | None, length: int, positions: torch.Tensor) -> tuple[View, View]:
        """Of the layers that see the whole text, and of the local ones; positions (T,) or (B, 1, T)."""
        bias = relative_bias(self.config, self.relative_attention_bias, length)
        everywhere = View(mask, bias, rotation_of(self.config, positions, local=False))
        if not self.config.local_attention:
            return everywhere, everywhere
        near = nearby(length, self.config.local_attention // 2, positions.device)
        if mask is not None:
            # Padding far from the text sees itself at least: softmax over nothing is not a number, and would spread.
            near = (near & mask) | torch.eye(length, dtype=torch.bool, device=near.device)
        return everywhere, View(near, bias, rotation_of(self.config, positions, local=True))

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> EncoderOutput:
        """`encode`, wrapped."""
        return EncoderOutput(last_hidden_state=self.encode(input_ids, attention_mask, token_type_ids))


def set_dropout(model: nn.Module, probability: float) -> None:
    """Train all parts of `model` with that dropout. Its config stays: it says what is saved, not this."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = probability
        elif isinstance(module, SelfAttention):
            module.dropout = probability
