"""An encoder's layers on the tokens of a batch laid end to end.

Only attention knows where a text ends; everything else works on tokens. So padding costs nothing, and nothing
has to be masked. Sums between layers are kept in bfloat16 with bfloat16 or int8 products, else in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ufbert.errors import DataError
from ufbert.model.encoder import Layer, UltraFastBertModel
from ufbert.model.fff import FFF
from ufbert.model.positions import alibi_bias, relative_bias, rotation_of

from .attention import Group, GroupView, PackedAttention
from .feedforward import MakeLinear, PackedFeedforward, PackedTrees, pack_feedforward
from .linear import Int8Linear

__all__ = ["PackedEncoder", "PackedFeedforward", "PackedTrees"]


def _rounded_up(rows: int) -> int:
    """`rows`, or up to a sixteenth more: the rows that are computed, so that batches seldom differ in their number.

    oneDNN compiles each product anew for each number of rows, which takes milliseconds in bfloat16.
    """
    step = 1 << max(0, rows.bit_length() - 5)
    return -(-rows // step) * step


class PackedLayer(nn.Module):
    """`Layer` on tokens (total, H)."""

    def __init__(
        self,
        layer: Layer,
        activation: str,
        window: int | None,
        dtype: torch.dtype,
        make: MakeLinear,
        *,
        loads_kernels: bool,
    ) -> None:
        super().__init__()
        self.pre_norm = layer.pre_norm
        self.attention_norm = layer.attention_norm.to(dtype)
        self.feedforward_norm = None if layer.feedforward_norm is None else layer.feedforward_norm.to(dtype)
        attention = layer.attention
        weight = attention.qkv.weight.detach().clone()
        bias = None if attention.qkv.bias is None else attention.qkv.bias.detach().clone()
        hidden = weight.shape[1]
        for queries in (weight[:hidden], bias[:hidden] if bias is not None else None):
            if queries is not None:
                queries *= (hidden // attention.heads) ** -0.5
        self.attention = PackedAttention(
            attention, make(weight, bias), make(attention.output.weight, attention.output.bias), window,
            loads_kernels=loads_kernels,
        )  # fmt: skip
        self.feedforward: PackedTrees | PackedFeedforward | None = None
        if layer.feedforward is not None:
            self.feedforward = pack_feedforward(layer.feedforward, activation, dtype, make)
        self.token_rows = None if layer.token_rows is None else layer.token_rows.to(dtype)

    def forward(self, x: torch.Tensor, groups: list[Group], ranks: torch.Tensor | None = None) -> torch.Tensor:
        """x (rows, H), ranks (rows,) -> (rows, H); x may be overwritten. Rows behind those of `groups` are no tokens.

        The ranks of the tokens by frequency are for layers with token rows.
        """
        if self.pre_norm:
            x = self.attention(self.attention_norm(x), groups, x)
        else:
            x = self.attention_norm(self.attention(x, groups, x))
        return self.feed(x, ranks)

    def feed(self, x: torch.Tensor, ranks: torch.Tensor | None = None) -> torch.Tensor:
        """The second half of the layer, after attention."""
        if self.feedforward_norm is None:
            return x
        residual = x if self.token_rows is None or ranks is None else self.token_rows(ranks).add_(x)
        if self.feedforward is None:
            fed = residual
        else:
            fed = self.feedforward(self.feedforward_norm(x) if self.pre_norm else x, residual)
        result: torch.Tensor = fed if self.pre_norm else self.feedforward_norm(fed)
        return result


class PackedEncoder(nn.Module):
    """Computes what the `UltraFastBertModel` it is made from does; that one must not be used any more."""

    def __init__(self, encoder: UltraFastBertModel, dtype: torch.dtype, make: MakeLinear) -> None:
        """`make` packs a linear layer's weight and bias; `dtype` is that of the sums between layers."""
        super().__init__()
        self.config = encoder.config
        self.dtype = dtype
        self.embeddings = encoder.embeddings
        self.relative_attention_bias = encoder.relative_attention_bias
        layers: Sequence[Any] = list(encoder.layers)
        loads_kernels = make is Int8Linear or any(isinstance(layer.feedforward, FFF) for layer in layers)
        config, activation = encoder.config, encoder.config.hidden_act
        windows = [config.local_attention // 2 if config.is_local(i) else None for i in range(config.num_hidden_layers)]
        self.layers = nn.ModuleList(
            PackedLayer(layer, activation, window, dtype, make, loads_kernels=loads_kernels)
            for layer, window in zip(layers, windows, strict=True)
        )
        self.final_norm = None if encoder.final_norm is None else encoder.final_norm.to(dtype)

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As `UltraFastBertModel.encode`, in float32; the mask's ones stand at the front, padding becomes zeros.

        Texts of one length are taken together, so a batch sorted by length is the fastest.
        """
        batch, longest = input_ids.shape
        if longest > self.config.max_position_embeddings:
            raise DataError(
                f"{longest} tokens are more than the model's maximum of "
                f"{self.config.max_position_embeddings}; truncate or split the text"
            )
        lengths = [longest] * batch if attention_mask is None else attention_mask.sum(1).tolist()
        groups = [self._group(len(list(run)), length) for length, run in itertools.groupby(lengths) if length]
        x = self._embed(input_ids, token_type_ids, lengths)
        total, rows = len(x), _rounded_up(len(x))
        x = F.pad(x, (0, 0, 0, rows - total))
        ranks = self.embeddings.ranks(input_ids if attention_mask is None else input_ids[attention_mask.bool()])
        if ranks is not None:
            ranks = F.pad(ranks.flatten(), (0, rows - total))
        for layer in self.layers:
            x = layer(x, groups, ranks)
        x = (x if self.final_norm is None else self.final_norm(x)).float()[:total]
        if attention_mask is None or min(lengths) == longest:
            return x.view(batch, longest, -1)
        padded = x.new_zeros((batch, longest, x.shape[1]))
        padded[attention_mask.bool()] = x
        return padded

    def _group(self, texts: int, length: int) -> Group:
        config, device = self.config, self.embeddings.word.weight.device
        bias = relative_bias(config, self.relative_attention_bias, length)
        if config.alibi:
            own = alibi_bias(config.num_attention_heads, length, torch.float32, device)
            bias = own if bias is None else bias + own
        if bias is not None:
            bias = bias.to(self.dtype).reshape(config.key_value_heads, -1, length)
        positions = torch.arange(length, device=device)
        views = (GroupView(bias, rotation_of(config, positions, local=local)) for local in (False, True))
        return Group(texts, length, *views)

    def _embed(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None, lengths: list[int]) -> torch.Tensor:
        """The tokens' embeddings (total, H)."""
        parts = []
        start = 0
        for length, run in itertools.groupby(lengths):
            stop = start + len(list(run))
            types = None if token_type_ids is None else token_type_ids[start:stop, :length]
            parts.append(self.embeddings(input_ids[start:stop, :length], types).flatten(0, 1))
            start = stop
        return torch.cat(parts).to(self.dtype)
