"""What the layers of a benchmark compute with: random weights, and a pool of random inputs.

Random inputs alone would not do: they must come in numbers (each call gets other tokens than the one
before), and the weights must send them to many leaves, as trained ones do. Rows of w_in are normal with
variance 1/H, so every logit of a standard normal token is about standard normal and each child is as
likely as the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

__all__ = [
    "INT8", "DenseWeights", "Operands", "Pool", "TreeWeights", "Weights", "draw_dense", "draw_inputs", "draw_trees",
    "operand_dtype", "rounded_to_bytes",
]  # fmt: skip

INT8 = "int8"

BIAS_DEVIATION = 0.02
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class DenseWeights:
    """Linear-GELU-Linear as torch stores it: w_in (N, H), b_in (N,), w_out (H, N)."""

    w_in: torch.Tensor
    b_in: torch.Tensor
    w_out: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """All three."""
        return self.w_in, self.b_in, self.w_out

    @property
    def nbytes(self) -> int:
        """Bytes of all three."""
        return sum(w.nbytes for w in self.tensors)

    def narrowed(self, neurons: int) -> DenseWeights:
        """A layer of the first `neurons`, in memory of its own."""
        return DenseWeights(
            w_in=self.w_in[:neurons].clone(),
            b_in=self.b_in[:neurons].clone(),
            w_out=self.w_out[:, :neurons].clone(memory_format=torch.contiguous_format),
        )


@dataclass(frozen=True)
class TreeWeights:
    """A fast feedforward layer: w_in (P, N, H), b_in (P, N), w_out (P, N, H), and the shared neurons beside it."""

    w_in: torch.Tensor
    b_in: torch.Tensor
    w_out: torch.Tensor
    shared: DenseWeights | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The trees' three, then those of the shared neurons."""
        return self.w_in, self.b_in, self.w_out, *(() if self.shared is None else self.shared.tensors)

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return sum(w.nbytes for w in self.tensors)


Weights = DenseWeights | TreeWeights
# By layer (ff, fff) and role (subject, control): the weights of each layer of a cycle.
Operands = dict[tuple[str, str], list[Weights]]


@dataclass(frozen=True)
class Pool:
    """Random tokens (tokens, H), and for training the output's gradients of the same shape."""

    x: torch.Tensor
    grad_y: torch.Tensor | None

    def batches(self, tokens: int) -> Iterator[Any]:
        """The inputs of consecutive calls, `tokens` each: x, or (x, grad_y) for training."""
        for start in range(0, len(self.x) - tokens + 1, tokens):
            part = slice(start, start + tokens)
            yield self.x[part] if self.grad_y is None else (self.x[part], self.grad_y[part])


def operand_dtype(precision: str) -> torch.dtype:
    """What x and y have, and the weights before they are packed; around products of 8 bits that is bfloat16."""
    dtype: torch.dtype = getattr(torch, "bfloat16" if precision == INT8 else precision)
    return dtype


def rounded_to_bytes(weights: Weights) -> Weights:
    """The weights that products of 8 bits stand for: 255 steps to a row, of w_out to a neuron's of trees."""

    def rounded(w: torch.Tensor) -> torch.Tensor:
        scale = w.double().abs().amax(-1, keepdim=True) / 127
        return (w.double() / scale.clamp_min(1e-300)).round() * scale

    if isinstance(weights, DenseWeights):
        return DenseWeights(rounded(weights.w_in), weights.b_in, rounded(weights.w_out))
    shared = None
    if weights.shared is not None:  # what goes out of these is not of 8 bits, as in `ufbert infer`
        shared = DenseWeights(rounded(weights.shared.w_in), weights.shared.b_in, weights.shared.w_out)
    return TreeWeights(rounded(weights.w_in), weights.b_in, rounded(weights.w_out), shared)


def draw_dense(hidden: int, neurons: int, seed: int, dtype: torch.dtype, device: torch.device) -> DenseWeights:
    """A dense layer of `neurons`; the same seed gives the same layer in every dtype, up to rounding."""
    return _dense(hidden, neurons, neurons, torch.Generator().manual_seed(seed), dtype, device)


def draw_trees(
    hidden: int, trees: int, depth: int, seed: int, dtype: torch.dtype, device: torch.device, shared: int = 0
) -> TreeWeights:
    """A fast feedforward layer, likewise, with `shared` neurons beside the trees."""
    generator = torch.Generator().manual_seed(seed)
    nodes = (1 << (depth + 1)) - 1
    used = trees * (depth + 1) + shared
    return TreeWeights(
        w_in=_normal((trees, nodes, hidden), hidden**-0.5, generator, dtype, device),
        b_in=_normal((trees, nodes), BIAS_DEVIATION, generator, dtype, device),
        w_out=_normal((trees, nodes, hidden), used**-0.5, generator, dtype, device),
        shared=_dense(hidden, shared, used, generator, dtype, device) if shared else None,
    )


def _dense(
    hidden: int, neurons: int, used: int, generator: torch.Generator, dtype: torch.dtype, device: torch.device
) -> DenseWeights:
    """`used` neurons add up to a token's output, these and others."""
    return DenseWeights(
        w_in=_normal((neurons, hidden), hidden**-0.5, generator, dtype, device),
        b_in=_normal((neurons,), BIAS_DEVIATION, generator, dtype, device),
        w_out=_normal((hidden, neurons), used**-0.5, generator, dtype, device),
    )


def draw_inputs(tokens: int, hidden: int, seed: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Standard normal tokens (tokens, H), as a LayerNorm leaves them."""
    return _normal((tokens, hidden), 1.0, torch.Generator().manual_seed(seed), dtype, device)


def _normal(
    size: tuple[int, ...], deviation: float, generator: torch.Generator, dtype: torch.dtype, device: torch.device
) -> torch.Tensor:
    """Drawn in float32 on the CPU, a piece at a time: a layer of GPT-3's size exists once, not three times."""
    result = torch.empty(size, dtype=dtype, device=device)
    for rows in result.view(-1, size[-1]).split(CHUNK_ROWS):
        rows.copy_(torch.randn(rows.shape, generator=generator) * deviation)
    return result


def to_numpy(x: torch.Tensor) -> Any:
    """The same memory as an array."""
    return x.numpy()


def from_numpy(y: Any) -> torch.Tensor:
    """And back."""
    return torch.from_numpy(np.ascontiguousarray(y))
