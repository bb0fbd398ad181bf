"""A new feedforward layer out of the dense layer whose place it takes."""

from __future__ import annotations

import torch

from ufbert.model.encoder import DenseFeedforward
from ufbert.model.fff import FFF

from .dense_initialization import initialize_dense
from .layer_inputs import LayerSample
from .tree_initialization import initialize_trees

__all__ = ["initialize_layer"]


def initialize_layer(
    layer: torch.nn.Module | None, dense: torch.nn.Module | None, sample: LayerSample, *, at_random: bool
) -> FFF | DenseFeedforward:
    """Fill `layer`, trees or a narrow dense layer, from `dense` and what it sees and says; `layer` itself.

    `at_random` gives the nodes of trees neurons at random.
    """
    assert isinstance(dense, DenseFeedforward)
    if isinstance(layer, FFF):
        initialize_trees(layer, dense, sample.x, sample.y, at_random=at_random)
        return layer
    assert isinstance(layer, DenseFeedforward)
    initialize_dense(layer, dense, sample.x, sample.y)
    return layer
