"""The straight-through gradient as passes of torch over all neurons, for devices without our kernels for it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

__all__ = ["StraightThroughByPasses", "path_mask"]


def path_mask(logits: torch.Tensor) -> torch.Tensor:
    """logits of all nodes (tokens, N, P) -> True at the visited ones, same shape."""
    tokens, nodes, trees = logits.shape
    right = logits > 0
    mask = torch.empty_like(right)
    mask[:, 0] = True
    for first in _level_starts(nodes):  # the children of a level stand side by side, left before right
        here, goes_right = mask[:, first : 2 * first + 1], right[:, first : 2 * first + 1]
        children = mask[:, 2 * first + 1 : 4 * first + 3].view(tokens, -1, 2, trees)
        torch.logical_and(here, goes_right, out=children[:, :, 1])
        torch.bitwise_xor(here, children[:, :, 1], out=children[:, :, 0])
    return mask


def _level_starts(nodes: int) -> list[int]:
    """The first node of every level but the last."""
    return [(1 << level) - 1 for level in range(nodes.bit_length() - 1)]


def _by_level(weights: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """(P, N, H) -> (N * P, H): the nodes of a level lie together, which makes the passes below contiguous."""
    return weights.to(dtype).transpose(0, 1).flatten(0, 1)


class StraightThroughByPasses(torch.autograd.Function):
    """Of x (tokens, H), w_in and w_out (P, N, H), b_in (P, N) and the sigmoid's temperature; y is (tokens, H)."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        trees, nodes, _ = w_in.shape
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        with torch.autocast(device, enabled=False):
            inputs, rows_in, rows_out = x.to(dtype), _by_level(w_in, dtype), _by_level(w_out, dtype)
            logits = F.linear(inputs, rows_in, b_in.to(dtype).T.flatten()).view(-1, nodes, trees)
            mask = path_mask(logits)
            activations = F.gelu(logits)
            visited = (activations * mask).flatten(1)
            y = visited @ rows_out
        ctx.save_for_backward(inputs, rows_in, rows_out, logits, activations, mask, visited)
        ctx.temperature = temperature
        ctx.dtypes = (x.dtype, w_in.dtype, w_out.dtype)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, rows_in, rows_out, logits, activations, mask, visited = ctx.saved_tensors
        tokens, nodes, trees = logits.shape
        g = gradients[0].to(x.dtype)
        gain = (g @ rows_out.T).view(tokens, nodes, trees)  # of every neuron, were it visited
        below = gain * activations  # becomes the sum over the walk that starts at the node
        grad_logits = torch.ops.aten.gelu_backward(gain, logits)
        for first in reversed(_level_starts(nodes)):
            left, right = below[:, 2 * first + 1 : 4 * first + 3].view(tokens, -1, 2, trees).unbind(2)
            here = logits[:, first : 2 * first + 1]
            other = right - left
            soft = torch.sigmoid(here * (1.0 / ctx.temperature))
            slope = torch.ops.aten.sigmoid_backward(other, soft)
            grad_logits[:, first : 2 * first + 1].add_(slope, alpha=1.0 / ctx.temperature)
            below[:, first : 2 * first + 1].add_(torch.addcmul(left, other, (here > 0).to(left.dtype)))
        flat = grad_logits.mul_(mask).flatten(1)
        x_dtype, in_dtype, out_dtype = ctx.dtypes

        def by_tree(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
            return rows.to(dtype).view(nodes, trees, -1).transpose(0, 1).contiguous()

        return (
            (flat @ rows_in).to(x_dtype),
            by_tree(flat.T @ x, in_dtype),
            flat.sum(0, dtype=in_dtype).view(nodes, trees).T.contiguous(),
            by_tree(visited.T @ g, out_dtype),
            None,
        )
