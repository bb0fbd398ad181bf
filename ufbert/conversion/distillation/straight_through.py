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

from ufbert.cmm.branches import branch_gradients, path_activations
from ufbert.model.fff import FFF

from .path_passes import StraightThroughByPasses

__all__ = ["StraightThroughFFF"]

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
        function = StraightThroughByKernels if flat.device.type == "cpu" else StraightThroughByPasses
        y: torch.Tensor = function.apply(flat, self.w_in, self.b_in, self.w_out, TEMPERATURE)  # type: ignore[no-untyped-call]
        y = y.reshape(x.shape)
        return y if self.b_out is None else y + self.b_out


class StraightThroughByKernels(torch.autograd.Function):
    """Of x (tokens, H), w_in and w_out (P, N, H), b_in (P, N) and the sigmoid's temperature; y is (tokens, H).

    Products by torch, in the type of the autocast. What lies between them, which needs few of the neurons, by our own
    kernels: as passes of torch over all neurons it takes three times as long as the products.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w_in: torch.Tensor,
        b_in: torch.Tensor,
        w_out: torch.Tensor,
        temperature: float,
    ) -> torch.Tensor:
        trees, nodes, _ = w_in.shape
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        with torch.autocast("cpu", enabled=False):
            inputs, rows_in, rows_out = x.to(dtype), w_in.to(dtype).flatten(0, 1), w_out.to(dtype).flatten(0, 1)
            logits = F.linear(inputs, rows_in, b_in.to(dtype).flatten())  # (tokens, P * N)
            visited = path_activations(logits, trees)
            y = visited @ rows_out
        ctx.save_for_backward(inputs, rows_in, rows_out, logits, visited)
        ctx.shape, ctx.temperature = (trees, nodes), temperature
        ctx.dtypes = (x.dtype, w_in.dtype, w_out.dtype)
        return y.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, rows_in, rows_out, logits, visited = ctx.saved_tensors
        g = gradients[0].to(x.dtype)
        flat = g @ rows_out.T  # of every neuron, were it visited
        trees, nodes = ctx.shape
        branch_gradients(logits, flat, trees, ctx.temperature)
        x_dtype, in_dtype, out_dtype = ctx.dtypes
        return (
            (flat @ rows_in).to(x_dtype),
            (flat.T @ x).to(in_dtype).view(trees, nodes, -1),
            (flat.new_ones(1, len(flat)) @ flat).to(in_dtype).view(trees, nodes),
            (visited.T @ g).to(out_dtype).view(trees, nodes, -1),
            None,
        )
