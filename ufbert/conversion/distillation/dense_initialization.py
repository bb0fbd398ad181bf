"""A narrow dense layer out of a dense layer's neurons: the control of what routing brings.

The neurons are chosen as shared neurons are, one after the other the one that explains most of the layer's output
beyond those before it. A gated neuron is both of its rows. The output weights are the ridge regression of the dense
layer's output on what the chosen neurons put out.
"""

from __future__ import annotations

import torch

from ufbert.model.encoder import DenseFeedforward

from .ridge import MAXIMUM_UNKNOWNS, ridge_towards
from .shared_neurons import Pursuit
from .tree_initialization import PLACEMENT_TOKENS

__all__ = ["RankedNeurons", "initialize_dense"]


class RankedNeurons:
    """The neurons of a dense layer in the order in which they are chosen, which is one for all widths."""

    @torch.no_grad()
    def __init__(self, dense: DenseFeedforward, x: torch.Tensor) -> None:
        """By the inputs x (tokens, H) of `dense` on some text."""
        activations = dense.activations(x[:PLACEMENT_TOKENS].float())  # (tokens, I)
        self.means = activations.mean(0)
        own = activations - self.means
        outputs = own @ dense.linear_out.weight.T
        self._pursuit = Pursuit((own.T @ own).double(), (own.T @ outputs).double())

    def first(self, count: int) -> torch.Tensor:
        """Indices (count,) of the best, the very best first."""
        return self._pursuit.first(count)


@torch.no_grad()
def initialize_dense(
    layer: DenseFeedforward,
    dense: DenseFeedforward,
    x: torch.Tensor,
    y: torch.Tensor,
    ranked: RankedNeurons | None = None,
) -> None:
    """Fill `layer` from the wider `dense` and the inputs x and outputs y (tokens, H) of `dense` on some text.

    `ranked` are the neurons of `dense` by the same x, where they are ranked already.
    """
    w_out = dense.linear_out.weight  # (H, I)
    if layer.neurons == dense.neurons:  # all of them, with another activation perhaps
        chosen, means = torch.arange(dense.neurons, device=x.device), w_out.new_zeros(dense.neurons)
    else:
        ranked = ranked or RankedNeurons(dense, x)
        chosen, means = ranked.first(layer.neurons), ranked.means
    rows = torch.cat((chosen, chosen + dense.neurons)) if dense.gated else chosen
    layer.linear_in.weight.copy_(dense.linear_in.weight[rows])
    if layer.linear_in.bias is not None:
        layer.linear_in.bias.copy_(dense.linear_in.bias[rows])
    layer.linear_out.weight.copy_(w_out[:, chosen])
    bias = layer.linear_out.bias
    if bias is not None:
        left_out = means.clone()
        left_out[chosen] = 0
        bias.copy_(dense.linear_out.bias + left_out @ w_out.T)
    if layer.neurons <= MAXIMUM_UNKNOWNS:
        weight, intercept = ridge_towards(layer.linear_out.weight.T, bias, layer.activations, x, y)
        layer.linear_out.weight.copy_(weight.T)
        if bias is not None:
            bias.copy_(intercept)
