"""Trees out of a dense layer's neurons: who stands where, and what the nodes put out.

A neuron is worth `(activation - its mean)^2 |w_out|^2` to a token, which is the squared error of the layer's
output if the token does without it (the mean goes into the output bias). Level by level, every node takes
the neuron that is worth most to the tokens that reach the node and do not have it yet, and these then part
by its sign. Neurons that fire together thus come to stand on one path. The output weights of all nodes are
then the ridge regression of the dense layer's output on the activations of the visited nodes.

Of a gated layer a node takes the gate's row, which decides whether the neuron fires, and the output weights times the
factor that brings the gate's activation nearest, in squares, to the neuron's product: nodes have no second product.

Shared neurons are chosen first (`shared_neurons.py`); the trees are worth what they say beyond those.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from ufbert.cmm.tree import node_count
from ufbert.model.encoder import DenseFeedforward
from ufbert.model.fff import FFF

from .path_passes import path_mask
from .random_placement import place_at_random
from .ridge import MAXIMUM_UNKNOWNS, ridge_towards
from .shared_neurons import choose_shared, regress_on

__all__ = ["initialize_trees", "place_neurons", "solve_output_weights"]

# Tokens that decide which neuron stands where: enough for a leaf of depth 8 to see 32 of them.
PLACEMENT_TOKENS = 8192


@torch.no_grad()
def initialize_trees(
    layer: FFF, dense: DenseFeedforward, x: torch.Tensor, y: torch.Tensor, *, at_random: bool = False
) -> None:
    """Fill `layer` from `dense` and the inputs x and outputs y (tokens, H) of `dense` on some text.

    `at_random` gives the nodes neurons at random.
    """
    place_neurons(layer, dense, x[:PLACEMENT_TOKENS].float(), at_random=at_random)
    if layer.trees * layer.nodes + layer.shared_neurons <= MAXIMUM_UNKNOWNS:
        solve_output_weights(layer, x, y)


@torch.no_grad()
def place_neurons(layer: FFF, dense: DenseFeedforward, x: torch.Tensor, *, at_random: bool = False) -> None:
    """Copy a dense neuron to every node and shared neuron; the output bias makes up for the means of the rest."""
    w_in, w_out = dense.linear_in.weight[: dense.neurons], dense.linear_out.weight  # (I, H), (H, I)
    bias = torch.zeros_like(w_in[:, 0]) if dense.linear_in.bias is None else dense.linear_in.bias[: dense.neurons]
    logits = F.linear(x, w_in, bias)  # (tokens, I)
    activations = dense.activations(x)
    columns = w_out.T  # what a node puts out for its neuron, (I, H)
    if dense.gated:
        said = F.gelu(logits)
        columns = columns * ((said * activations).sum(0) / said.square().sum(0).clamp(min=1e-12))[:, None]
    means = activations.mean(0)
    output_mean = means @ w_out.T
    own = activations - means
    if layer.shared is not None:
        shared = choose_shared(own, own @ w_out.T, layer.shared_neurons)
        own = regress_on(own[:, shared], own)
        layer.shared.linear_in.weight.copy_(w_in[shared])
        layer.shared.linear_in.bias.copy_(bias[shared])
        layer.shared.linear_out.weight.copy_(columns[shared].T)
        output_mean -= means[shared] @ w_out[:, shared].T
    if at_random:
        neurons = place_at_random(dense.neurons, layer.trees, layer.depth)  # (P, N)
    else:
        worth = own.square() * w_out.square().sum(0)  # (tokens, I)
        neurons = _place(logits > 0, worth, layer.trees, layer.depth)
    neurons = neurons.to(w_in.device)
    layer.w_in.copy_(w_in[neurons])
    layer.w_out.copy_(columns[neurons])
    layer.b_in.copy_(bias[neurons])
    if layer.b_out is not None:
        out_bias = dense.linear_out.bias
        layer.b_out.copy_(output_mean if out_bias is None else output_mean + out_bias)


def _place(active: torch.Tensor, worth: torch.Tensor, trees: int, depth: int) -> torch.Tensor:
    """active, worth (tokens, I) -> the neuron of each node (P, N). `worth` is used up."""
    count = worth.shape[1]
    placed = torch.zeros(trees, node_count(depth), dtype=torch.int64)
    right = active.to(worth.dtype)
    reached = worth.new_ones(trees, worth.shape[0])  # (nodes of the level, tokens), 1 where a token comes
    for level in range(depth + 1):
        gain = reached @ worth  # (nodes, I)
        if level < depth:
            # A node that sends all tokens one way makes its tree shallower: prefer even splits.
            share = (reached @ right) / reached.sum(1, keepdim=True).clamp(min=1)
            gain = gain * (share * (1 - share)).clamp(min=1e-3)
        chosen = torch.empty(len(reached), dtype=torch.int64)
        for start in range(0, len(reached), count):  # one to one, so that no two nodes take the same
            rows, columns = linear_sum_assignment(gain[start : start + count].cpu().numpy(), maximize=True)
            chosen[start + torch.from_numpy(rows)] = torch.from_numpy(columns)
        first = (1 << level) - 1
        placed[:, first : 2 * first + 1] = chosen.view(trees, -1)
        chosen = chosen.to(worth.device)
        for node, neuron in enumerate(chosen.tolist()):
            worth[:, neuron] *= 1 - reached[node]  # these tokens have it now
        goes_right = right[:, chosen].T  # (nodes, tokens)
        reached = torch.stack([reached * (1 - goes_right), reached * goes_right], 1).flatten(0, 1)
    return placed


@torch.no_grad()
def solve_output_weights(layer: FFF, x: torch.Tensor, y: torch.Tensor) -> None:
    """Set all output weights (and b_out) to the ridge regression of y on the activations, drawn to what they are."""
    in_trees = layer.trees * layer.nodes
    rows = [layer.w_out.flatten(0, 1)] + ([] if layer.shared is None else [layer.shared.linear_out.weight.T])
    weights, intercept = ridge_towards(torch.cat(rows), layer.b_out, partial(activations_of, layer), x, y)
    layer.w_out.copy_(weights[:in_trees].view_as(layer.w_out))
    if layer.shared is not None:
        layer.shared.linear_out.weight.copy_(weights[in_trees:].T)
    if layer.b_out is not None:
        layer.b_out.copy_(intercept)


def activations_of(layer: FFF, x: torch.Tensor) -> torch.Tensor:
    """x (tokens, H) -> gelu of the visited nodes' logits among zeros, then the shared neurons', (tokens, P * N + S)."""
    logits = torch.einsum("th,pnh->tnp", x, layer.w_in) + layer.b_in.T
    visited = (F.gelu(logits) * path_mask(logits)).transpose(1, 2).flatten(1)
    return visited if layer.shared is None else torch.cat((visited, F.gelu(layer.shared.linear_in(x))), 1)
