"""What the right result is, in float64, and whether an implementation gave it. A wrong one is never timed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .operands import DenseWeights, TreeWeights

__all__ = ["Check", "Walk", "check_output", "dense_rows", "near_tie", "route", "walk_rows"]

# Largest error of a token's output, relative to its Euclidean norm.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
# Largest share of tokens that may have gone another way at a logit within rounding of zero.
DIVERTED_SHARE = 0.1
ROUNDINGS = 8.0
CHUNK_TOKENS = 512


@dataclass(frozen=True)
class Check:
    """How an implementation's result compares with the reference."""

    tokens: int
    error: float
    """Largest relative error among the tokens that took the reference's path."""
    diverted: int
    """Tokens off by more, all with a logit within rounding of zero: they took another path, rightly so."""
    failure: str = ""
    """Why the implementation must not be timed; empty if it is right."""


@dataclass(frozen=True)
class Walk:
    """Result of `walk_rows`: y (tokens, H), leaves (tokens, P), and each token's smallest margin (tokens,).

    The margin is the distance of the closest decision from a tie, in units of the logit's rounding error.
    """

    y: torch.Tensor
    leaves: torch.Tensor
    margin: torch.Tensor


def dense_rows(x: torch.Tensor, weights: DenseWeights) -> torch.Tensor:
    """Linear-GELU-Linear of x (tokens, H) in float64, a slice of the neurons at a time."""
    x = x.double()
    y = torch.zeros_like(x)
    for start in range(0, weights.w_in.shape[0], CHUNK_TOKENS):
        part = slice(start, start + CHUNK_TOKENS)
        hidden = F.gelu(F.linear(x, weights.w_in[part].double(), weights.b_in[part].double()))
        y += hidden @ weights.w_out[:, part].double().T
    return y


def walk_rows(x: torch.Tensor, weights: TreeWeights, dtype: torch.dtype | None = None) -> Walk:
    """The definition of CMM in float64, level by level with gathered rows; shares no code with a backend.

    Shared neurons beside the trees are added to y.
    `dtype` is the precision whose rounding the margins are measured in; x's own by default.
    """
    parts = [_walk(part, weights, dtype or x.dtype) for part in x.split(CHUNK_TOKENS)]
    y, leaves, margin = (torch.cat([getattr(part, name) for part in parts]) for name in ("y", "leaves", "margin"))
    return Walk(y if weights.shared is None else y + dense_rows(x, weights.shared), leaves, margin)


def route(x: torch.Tensor, weights: TreeWeights) -> torch.Tensor:
    """The leaf of each token in each tree, (tokens, P) node indices, in float32: for statistics over many tokens."""
    trees, nodes, _ = weights.w_in.shape
    leaves = torch.zeros((x.shape[0], trees), dtype=torch.int64, device=x.device)
    for part, out in zip(x.split(CHUNK_TOKENS), leaves.split(CHUNK_TOKENS), strict=True):
        for p in range(trees):
            node = out.new_zeros(part.shape[0])
            for _ in range(nodes.bit_length() - 1):
                logit = (part.float() * weights.w_in[p, node]).sum(1) + weights.b_in[p, node]
                node = 2 * node + 1 + (logit > 0)
            out[:, p] = node
    return leaves


def _walk(x: torch.Tensor, weights: TreeWeights, dtype: torch.dtype) -> Walk:
    trees, nodes, hidden = weights.w_in.shape
    levels = nodes.bit_length()
    x = x.double()
    y = torch.zeros_like(x)
    leaves = torch.zeros((x.shape[0], trees), dtype=torch.int64, device=x.device)
    margin = torch.full((x.shape[0],), torch.inf, dtype=torch.float64, device=x.device)
    unit = torch.finfo(dtype).eps / 2
    for p in range(trees):
        node = leaves.new_zeros(x.shape[0])
        for level in range(levels):
            w_in = weights.w_in[p, node].double()  # (tokens, H)
            logit = (x * w_in).sum(1) + weights.b_in[p, node].double()
            y += F.gelu(logit)[:, None] * weights.w_out[p, node].double()
            leaves[:, p] = node
            if level + 1 < levels:
                scale = unit * x.norm(dim=1) * w_in.norm(dim=1) / hidden**0.5
                margin = torch.minimum(margin, logit.abs() / scale.clamp(min=1e-300))
            node = 2 * node + 1 + (logit > 0)
    return Walk(y, leaves, margin)


def check_output(
    y: torch.Tensor,
    expected: torch.Tensor,
    dtype: torch.dtype,
    margin: torch.Tensor | None = None,
    tolerance: float | None = None,
) -> Check:
    """Compare outputs (tokens, H) with the reference's; `margin` excuses tokens whose path hung on rounding.

    `tolerance` is the dtype's own by default.
    """
    tokens = expected.shape[0]
    if y.shape != expected.shape:
        return Check(tokens, float("nan"), 0, f"shape {tuple(y.shape)} instead of {tuple(expected.shape)}")
    tolerance = tolerance or TOLERANCE[dtype]
    error = (y.double() - expected).norm(dim=1) / expected.norm(dim=1).clamp(min=1e-300)
    wrong = ~(error <= tolerance)  # NaN is wrong
    close = torch.zeros_like(wrong) if margin is None else near_tie(margin, y.shape[1], dtype)
    diverted = int((wrong & close).sum())
    kept = error[~(wrong & close)]
    largest = float(kept.nan_to_num(nan=torch.inf).max()) if kept.numel() else 0.0
    failure = ""
    if bool((wrong & ~close).any()):
        failure = (
            f"{int((wrong & ~close).sum())} of {tokens} tokens differ from the float64 reference, "
            f"by {largest:.2g} of their norm (allowed: {tolerance:g})"
        )
    elif diverted > max(2.0, DIVERTED_SHARE * tokens):
        failure = f"{diverted} of {tokens} tokens took another path than the reference"
    return Check(tokens, largest, diverted, failure)


def near_tie(margin: torch.Tensor, hidden: int, dtype: torch.dtype) -> torch.Tensor:
    """Whether a token's path may rightly differ from the reference's, from the margins of a `Walk`.

    The rounding errors of a float32 logit add up over the H products; lower precisions round the operands.
    """
    accumulated = hidden**0.5 if dtype == torch.float32 else 1.0
    return margin < ROUNDINGS * accumulated
