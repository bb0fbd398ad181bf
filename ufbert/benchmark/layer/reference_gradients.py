"""What the right gradients are, in float64, and whether an implementation gave them.

Written out by hand, so that nothing is shared with autograd or a backend:  a = gelu(s),
ds = gelu'(s) (g . w_out[node]),  grad_w_out[node] += a g,  grad_w_in[node] += ds x,  grad_b_in[node] += ds,
grad_x += ds w_in[node].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .operands import DenseWeights, TreeWeights
from .reference import Check

__all__ = ["Expected", "check_training", "dense_gradients", "tree_gradients"]

# Largest error of a whole gradient, relative to its Euclidean norm.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 3e-2}
# Neurons whose weight gradients are checked in a dense layer, and tokens whose output and gradient are.
DENSE_NEURONS = 64
DENSE_TOKENS = 32
CHUNK_NEURONS = 512


@dataclass(frozen=True)
class Expected:
    """One tensor of a training step's result, or the part of it that is checked."""

    name: str
    select: Callable[[torch.Tensor], torch.Tensor]
    """From the implementation's tensor to what is comparable with `value`."""
    value: torch.Tensor


def tree_gradients(x: torch.Tensor, grad_y: torch.Tensor, weights: TreeWeights) -> list[Expected]:
    """For (y, grad_x, grad_w_in, grad_b_in, grad_w_out): the rows that the tokens visit, and zeros elsewhere.

    The gradients of shared neurons follow.
    """
    trees, nodes, hidden = weights.w_in.shape
    x, grad_y = x.double(), grad_y.double()
    y, grad_x = torch.zeros_like(x), torch.zeros_like(x)
    visited: list[torch.Tensor] = []  # (levels * tokens,) node numbers over all trees, in order of the visits
    steps = []
    for p in range(trees):
        node = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        for _ in range(nodes.bit_length()):
            w_in, w_out = weights.w_in[p, node].double(), weights.w_out[p, node].double()
            s = (x * w_in).sum(1) + weights.b_in[p, node].double()
            a, ds = F.gelu(s), _gelu_slope(s) * (grad_y * w_out).sum(1)
            y += a[:, None] * w_out
            grad_x += ds[:, None] * w_in
            visited.append(p * nodes + node)
            steps.append((a, ds))
            node = 2 * node + 1 + (s > 0)
    rows, position = torch.unique(torch.stack(visited), return_inverse=True)
    grad_w_in, grad_w_out = (x.new_zeros((len(rows), hidden)) for _ in range(2))
    grad_b_in = x.new_zeros(len(rows))
    for (a, ds), index in zip(steps, position, strict=True):
        grad_w_in.index_add_(0, index, ds[:, None] * x)
        grad_w_out.index_add_(0, index, a[:, None] * grad_y)
        grad_b_in.index_add_(0, index, ds)

    def visited_rows(gradient: torch.Tensor) -> torch.Tensor:
        """The visited rows, and one more with the norm of all others, which must be zero."""
        flat = gradient.reshape(trees * nodes, -1)
        unvisited = torch.ones(len(flat), dtype=torch.bool, device=flat.device)
        unvisited[rows] = False
        rest = flat.float().norm(dim=1)[unvisited].norm()
        return torch.cat([flat[rows].double().flatten(), rest.double()[None]])

    def with_zero(wanted: torch.Tensor) -> torch.Tensor:
        return torch.cat([wanted.flatten(), wanted.new_zeros(1)])

    beside: list[Expected] = []
    if weights.shared is not None:
        w_in, w_out = weights.shared.w_in.double(), weights.shared.w_out.double()
        s = F.linear(x, w_in, weights.shared.b_in.double())
        ds = _gelu_slope(s) * (grad_y @ w_out)
        y += F.gelu(s) @ w_out.T
        grad_x += ds @ w_in
        values = {"w_in": ds.T @ x, "b_in": ds.sum(0), "w_out": grad_y.T @ F.gelu(s)}
        beside = [Expected(f"grad_{name} (shared)", torch.Tensor.double, value) for name, value in values.items()]
    return [
        Expected("y", torch.Tensor.double, y),
        Expected("grad_x", torch.Tensor.double, grad_x),
        Expected("grad_w_in", visited_rows, with_zero(grad_w_in)),
        Expected("grad_b_in", visited_rows, with_zero(grad_b_in)),
        Expected("grad_w_out", visited_rows, with_zero(grad_w_out)),
        *beside,
    ]


def dense_gradients(x: torch.Tensor, grad_y: torch.Tensor, weights: DenseWeights) -> list[Expected]:
    """The same for Linear-GELU-Linear: y and grad_x of some tokens, weight gradients of some neurons.

    The whole would take longer in float64 than everything that is timed.
    """
    x, grad_y = x.double(), grad_y.double()
    tokens = _spread(x.shape[0], DENSE_TOKENS, x.device)
    neurons = _spread(weights.w_in.shape[0], DENSE_NEURONS, x.device)
    y, grad_x = (x.new_zeros((len(tokens), x.shape[1])) for _ in range(2))
    for start in range(0, weights.w_in.shape[0], CHUNK_NEURONS):
        part = slice(start, start + CHUNK_NEURONS)
        w_in, w_out = weights.w_in[part].double(), weights.w_out[:, part].double()
        s = F.linear(x[tokens], w_in, weights.b_in[part].double())
        y += F.gelu(s) @ w_out.T
        grad_x += (_gelu_slope(s) * (grad_y[tokens] @ w_out)) @ w_in
    w_out = weights.w_out[:, neurons].double()
    s = F.linear(x, weights.w_in[neurons].double(), weights.b_in[neurons].double())
    ds = _gelu_slope(s) * (grad_y @ w_out)
    return [
        Expected("y", lambda result: result[tokens].double(), y),
        Expected("grad_x", lambda result: result[tokens].double(), grad_x),
        Expected("grad_w_in", lambda result: result[neurons].double(), ds.T @ x),
        Expected("grad_b_in", lambda result: result[neurons].double(), ds.sum(0)),
        Expected("grad_w_out", lambda result: result[:, neurons].double(), grad_y.T @ F.gelu(s)),
    ]


def check_training(
    results: tuple[torch.Tensor, ...], expected: list[Expected], dtype: torch.dtype, tolerance: float | None = None
) -> Check:
    """Compare (y, grad_x, grad_w_in, grad_b_in, grad_w_out) with the reference's, each as a whole.

    `tolerance` is the dtype's own by default.
    """
    tolerance = tolerance or TOLERANCE[dtype]
    largest = 0.0
    for result, wanted in zip(results, expected, strict=True):
        error = float((wanted.select(result) - wanted.value).norm() / wanted.value.norm().clamp(min=1e-300))
        if not error <= tolerance:
            failure = f"{wanted.name} is off by {error:.2g} of its norm (allowed: {tolerance:g})"
            return Check(results[0].shape[0], error, 0, failure)
        largest = max(largest, error)
    return Check(results[0].shape[0], largest, 0)


def _gelu_slope(s: torch.Tensor) -> torch.Tensor:
    cumulative = 0.5 * (1.0 + torch.erf(s * math.sqrt(0.5)))
    return cumulative + s * torch.exp(-0.5 * s * s) / math.sqrt(2.0 * math.pi)


def _spread(total: int, wanted: int, device: torch.device) -> torch.Tensor:
    """Up to `wanted` of `total` indices, the first and the last among them."""
    return torch.linspace(0, total - 1, min(wanted, total), device=device).round().long()
