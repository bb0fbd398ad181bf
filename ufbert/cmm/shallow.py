"""CPU, trees of depth 0 to 2 in float32: dense products of all neurons, then only the paths' activations.

Such a tree has at most 7 neurons of which it visits 3. A dense product runs at the processor's peak, the walk at
the speed of its second-level cache: measured on one core at hidden size 768, 1,024 tokens, the walk of 512 trees
of depth 2 takes 71 us a token, these products 60; with 256 trees of depth 3 the walk is ahead, 45 to 63. A few tokens
are bound by reading the weights, of which the walk reads fewer: one token through those 512 trees takes it 156 us,
the products 572.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ufbert import numba_kernels

__all__ = ["forward", "infer", "is_faster"]

# Tokens for which the walk is as fast, by nodes of a tree; measured at 1, 2, 3, 4, 6, 8, 12 and 16 tokens.
MOST_TOKENS_WALKED = {1: 2, 3: 2, 7: 6}


def is_faster(tokens: int, nodes: int, dtype: torch.dtype) -> bool:
    """Whether the dense products are the faster way for trees of so many nodes."""
    return nodes in MOST_TOKENS_WALKED and tokens > MOST_TOKENS_WALKED[nodes] and dtype is torch.float32


def forward(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Shapes as in a backend's `forward`."""
    trees, nodes, _ = w_in.shape
    logits = x.new_empty((x.shape[0], trees, nodes.bit_length()))
    leaves = x.new_empty((x.shape[0], trees), dtype=torch.int64)
    return _forward(x, w_in, b_in, w_out, logits, leaves), logits, leaves


def infer(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
    """The y of `forward` alone."""
    return _forward(x, w_in, b_in, w_out, None, None)


def _forward(
    x: torch.Tensor,
    w_in: torch.Tensor,
    b_in: torch.Tensor,
    w_out: torch.Tensor,
    logits: torch.Tensor | None,
    leaves: torch.Tensor | None,
) -> torch.Tensor:
    trees, nodes, hidden = w_in.shape
    logits_all = _linear(x, w_in.view(-1, hidden), b_in.view(-1)).view(-1, trees, nodes)
    numba_kernels.keep_paths(
        logits_all.numpy(),
        None if logits is None else logits.numpy(),
        None if leaves is None else leaves.numpy(),
        threads=torch.get_num_threads(),
    )
    return _linear(logits_all.view(-1, trees * nodes), w_out.view(-1, hidden).T, None)


def _linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """By oneDNN, which on AMD takes less than half the time of the MKL behind `F.linear`."""
    if not torch.backends.mkldnn.is_available() or not x.shape[0]:
        return F.linear(x, weight, bias)
    y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return y
