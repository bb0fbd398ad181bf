"""What the layers of a benchmark compute with: random weights, and a pool of random inputs.

Random inputs alone would not do: they must come in numbers (each call gets other tokens than the one
before), and the weights must send them to many leaves, as trained ones do. Rows of w_in are normal with
variance 1/H, so every logit of a standard normal token is about standard normal and each child is as
likely as the other.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .settings import Shape

__all__ = ["DenseWeights", "TreeWeights", "draw_dense", "draw_inputs", "draw_trees"]

BIAS_DEVIATION = 0.02
CHUNK_ROWS = 4096


@dataclass(frozen=True)
class DenseWeights:
    """Linear-GELU-Linear as torch stores it: w_in (N, H), b_in (N,), w_out (H, N)."""

    w_in: torch.Tensor
    b_in: torch.Tensor
    w_out: torch.Tensor


@dataclass(frozen=True)
class TreeWeights:
    """A fast feedforward layer: w_in (P, N, H), b_in (P, N), w_out (P, N, H)."""

    w_in: torch.Tensor
    b_in: torch.Tensor
    w_out: torch.Tensor


def draw_dense(shape: Shape, neurons: int, seed: int, dtype: torch.dtype, device: torch.device) -> DenseWeights:
    """A dense layer of `neurons`; the same seed gives the same layer in every dtype, up to rounding."""
    generator = torch.Generator().manual_seed(seed)
    hidden = shape.hidden_size
    return DenseWeights(
        w_in=_normal((neurons, hidden), hidden**-0.5, generator, dtype, device),
        b_in=_normal((neurons,), BIAS_DEVIATION, generator, dtype, device),
        w_out=_normal((hidden, neurons), neurons**-0.5, generator, dtype, device),
    )


def draw_trees(hidden: int, trees: int, depth: int, seed: int, dtype: torch.dtype, device: torch.device) -> TreeWeights:
    """A fast feedforward layer, likewise."""
    generator = torch.Generator().manual_seed(seed)
    nodes = (1 << (depth + 1)) - 1
    used = trees * (depth + 1)
    return TreeWeights(
        w_in=_normal((trees, nodes, hidden), hidden**-0.5, generator, dtype, device),
        b_in=_normal((trees, nodes), BIAS_DEVIATION, generator, dtype, device),
        w_out=_normal((trees, nodes, hidden), used**-0.5, generator, dtype, device),
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
