"""The feedforward layers of a packed encoder: dense ones, trees, and trees with weights of 8 bits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from ufbert.model.encoder import ACTIVATIONS, DenseFeedforward
from ufbert.model.fff import FFF, SharedNeurons

from .linear import Int8Linear, PackedLinear, multiplies_bytes

__all__ = ["MakeLinear", "PackedFeedforward", "PackedTrees", "pack_feedforward"]

MakeLinear = Callable[[torch.Tensor, torch.Tensor | None], PackedLinear | Int8Linear]


class PackedFeedforward(nn.Module):
    """A dense layer; a GELU without a gate is part of the product."""

    def __init__(
        self, linear_in: PackedLinear | Int8Linear, linear_out: PackedLinear, activation: str, *, gated: bool = False
    ) -> None:
        super().__init__()
        self.linear_in, self.linear_out = linear_in, linear_out
        self.gated = gated
        self.fused = "gelu" if activation == "gelu" and not gated else "none"
        self.activation = None if self.fused == "gelu" else ACTIVATIONS[activation]

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """x and residual (total, H) -> residual + feedforward(x)."""
        inner = self.linear_in(x, activation=self.fused)
        if self.activation is not None:
            gate, *factors = inner.chunk(2, -1) if self.gated else (inner,)
            inner = self.activation(gate)
            for factor in factors:
                inner = inner.mul_(factor)
        y: torch.Tensor = self.linear_out(inner, residual)
        return y


class PackedTrees(nn.Module):
    """`FFF`, its shared neurons packed as a dense layer is."""

    def __init__(self, trees: nn.Module, shared: PackedFeedforward | None) -> None:
        """`trees` is an `FFF` whose `walk` leaves the shared neurons out, or `Int8Trees`."""
        super().__init__()
        self.trees, self.shared = trees, shared

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """x and residual (total, H) -> residual + feedforward(x)."""
        if isinstance(self.trees, FFF):
            y = self.trees.walk(x)
            if residual is not None:
                y.add_(residual)
        else:
            y = self.trees(x, residual)
        return y if self.shared is None else self.shared(x, y)


class Int8Trees(nn.Module):
    """Trees whose rows have 8 bits and a scale each; x and the activations get 15 bits for each token.

    The sums are those of integers, so a token's result depends on nothing else. The rounding of the weights moves a
    layer's output by about 1 % of its norm, and a token with a logit within that rounding of zero to another path.
    """

    def __init__(self, layer: FFF) -> None:
        super().__init__()
        from ufbert import numba_kernels  # a fifth of a second that dense models need not wait

        self.shape = layer.trees, layer.nodes, layer.hidden_size
        rows_in, scales_in = numba_kernels.byte_rows(layer.w_in.detach().float().numpy())
        rows_out, scales_out = numba_kernels.byte_rows(layer.w_out.detach().float().numpy())
        known = (torch.from_numpy(scales_in), layer.b_in.detach().float(), torch.from_numpy(scales_out))
        self.rows_in, self.rows_out = torch.from_numpy(rows_in), torch.from_numpy(rows_out)
        self.known = torch.stack(known, -1).contiguous()
        self.bias = None if layer.b_out is None else layer.b_out.detach().float().clone()

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """x and residual (total, H) in bfloat16 -> residual + trees(x)."""
        from ufbert import numba_kernels

        x = x.contiguous()
        added = None if residual is None else residual.contiguous()
        y = torch.empty_like(x)
        held = (x, self.known, self.rows_in, self.rows_out, y, added, self.bias)
        addresses = tuple(0 if tensor is None else tensor.data_ptr() for tensor in held)
        numba_kernels.forward_bytes_at(addresses, len(x), *self.shape, torch.get_num_threads())
        return y


def pack_feedforward(
    layer: DenseFeedforward | FFF, activation: str, dtype: torch.dtype, make: MakeLinear
) -> PackedFeedforward | PackedTrees:
    """`make` packs what comes in; what goes out of dense layers is packed in `dtype`, which is that of x too.

    Trees get 8 bits where dense layers do, if the processor multiplies bytes. Those of depth 0 are a dense layer.
    """
    if isinstance(layer, DenseFeedforward):
        return _dense(layer, activation, dtype, make, gated=layer.gated)
    if layer.depth == 0:
        return _without_decisions(layer, dtype, make)
    shared = None if layer.shared is None else _dense(layer.shared, "gelu", dtype, make)
    eight_bits = make is Int8Linear and multiplies_bytes()
    return PackedTrees(Int8Trees(layer) if eight_bits else layer.to(dtype), shared)


def _dense(
    layer: DenseFeedforward | SharedNeurons,
    activation: str,
    dtype: torch.dtype,
    make: MakeLinear,
    *,
    gated: bool = False,
) -> PackedFeedforward:
    # Activations have few large values, which a scale of 8 bits cannot serve along with the many small ones:
    # int8 here moved MiniLM's sentence embeddings by 2 % in cosine.
    out = PackedLinear(layer.linear_out.weight, layer.linear_out.bias, dtype)
    return PackedFeedforward(make(layer.linear_in.weight, layer.linear_in.bias), out, activation, gated=gated)


def _without_decisions(layer: FFF, dtype: torch.dtype, make: MakeLinear) -> PackedFeedforward:
    """Trees of one node each, and the shared neurons beside them, as one dense layer."""
    w_in, b_in, w_out = layer.w_in[:, 0], layer.b_in[:, 0], layer.w_out[:, 0]
    if layer.shared is not None:
        w_in = torch.cat((w_in, layer.shared.linear_in.weight))
        b_in = torch.cat((b_in, layer.shared.linear_in.bias))
        w_out = torch.cat((w_out, layer.shared.linear_out.weight.t()))
    return PackedFeedforward(make(w_in, b_in), PackedLinear(w_out.t().contiguous(), layer.b_out, dtype), "gelu")
