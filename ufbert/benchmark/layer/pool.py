"""The inputs of a run: more random tokens than any batch holds."""

from __future__ import annotations

import torch

from ufbert.benchmark.settings import BenchmarkSettings

from .operands import Pool, TreeWeights, Weights, draw_inputs
from .reference import near_tie, walk_rows

__all__ = ["draw_pool"]

# Several batches, so that a call never meets the tokens of the call before.
LEAST_TOKENS = 4096
BATCHES = 3
MOST_BYTES = 2 << 30


def draw_pool(settings: BenchmarkSettings, weights: Weights, dtype: torch.dtype, device: torch.device) -> Pool:
    """Inputs for all batch sizes.

    For training, the first batch, which is the one checked, gets no token whose path in `weights` hangs on
    rounding: a token that rightly goes another way would change the weights' gradients as a whole.
    """
    hidden = settings.shape.hidden_size
    most = max(settings.batches)
    tokens = max(LEAST_TOKENS, BATCHES * most)
    tokens = max(most, min(tokens, MOST_BYTES // (hidden * dtype.itemsize)))
    x = draw_inputs(tokens, hidden, settings.seed + 1, dtype, device)
    if settings.direction == "forward":
        return Pool(x, None)
    if isinstance(weights, TreeWeights):
        _move_near_ties_back(x, near_tie(walk_rows(x, weights).margin, hidden, dtype), most)
    return Pool(x, draw_inputs(tokens, hidden, settings.seed + 2, dtype, device))


def _move_near_ties_back(x: torch.Tensor, near: torch.Tensor, first: int) -> None:
    """Exchange the marked tokens among the `first` for unmarked ones from behind, as far as there are any."""
    marked = near[:first].nonzero()[:, 0]
    spare = (~near[first:]).nonzero()[:, 0] + first
    number = min(len(marked), len(spare))
    marked, spare = marked[:number], spare[:number]
    x[marked], x[spare] = x[spare].clone(), x[marked].clone()
