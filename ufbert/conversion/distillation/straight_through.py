"""A fast feedforward layer whose routing can be trained.

The walk down a tree has no gradient: a node's decision is a step. This layer computes the same output, all
neurons at once as dense products, and gives each visited node's logit one more gradient: that of a
sigmoid of temperature `TEMPERATURE` in the step's place. It amounts to asking, at every node a token visits,
what the loss would gain if the token took the other branch, and needs the unvisited neurons' outputs, which
only the dense products give.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ufbert.model.fff import FFF

__all__ = ["StraightThroughFFF", "path_mask"]

# In units of the logits. 0.1 to 1 train equally well on all-MiniLM-L6-v2's layers.
TEMPERATURE = 0.3
# Beyond so many neurons the dense products cost more than the routing's gradient brings; the walk itself
# then trains the layer, without it.
MAXIMUM_NEURONS = 1 << 14


class StraightThroughFFF(FFF):
    """`FFF` that trains its routing while gradients are recorded, and is `FFF` itself otherwise."""

    def walk(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., H) -> (..., H)."""
        if not torch.is_grad_enabled() or self.depth == 0 or self.trees * self.nodes > MAXIMUM_NEURONS:
            return super().walk(x)
        flat = x.reshape(-1, self.hidden_size)
        y: torch.Tensor = _StraightThrough.apply(flat, self.w_in, self.b_in, self.w_out)  # type: ignore[no-untyped-call]
        y = y.reshape(x.shape)
        return y if self.b_out is None else y + self.b_out


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


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
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
        ctx.dtypes = (x.dtype, w_in.dtype, w_out.dtype)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
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
            soft = torch.sigmoid(here * (1.0 / TEMPERATURE))
            slope = torch.ops.aten.sigmoid_backward(other, soft)
            grad_logits[:, first : 2 * first + 1].add_(slope, alpha=1.0 / TEMPERATURE)
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
        )
