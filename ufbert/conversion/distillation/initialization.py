"""A new feedforward layer out of the dense layer whose place it takes."""

from __future__ import annotations

import torch

from ufbert.model.encoder import DenseFeedforward, Layer
from ufbert.model.fff import FFF

from .dense_initialization import initialize_dense
from .layer_inputs import LayerSample
from .token_rows import RankedRows
from .tree_initialization import initialize_trees

__all__ = ["initialize_layer"]


def initialize_layer(
    layer: FFF | DenseFeedforward | None,
    teacher: Layer,
    sample: LayerSample,
    *,
    at_random: bool,
    rows: RankedRows | None = None,
) -> None:
    """Fill `layer`, trees or a narrow dense layer, from the teacher's dense layer and what that sees and says.

    `at_random` gives the nodes of trees neurons at random. With `rows` neurons say what a row for each token leaves
    over, and then the rows what such neurons leave over.
    """
    dense = teacher.feedforward
    assert isinstance(dense, DenseFeedforward)
    rest = sample
    if rows is not None:
        rows.fit(teacher, sample, None)
        rest = rows.left_over(sample)
    if isinstance(layer, FFF):
        initialize_trees(layer, dense, rest.x, rest.y, at_random=at_random)
    elif layer is not None:
        initialize_dense(layer, dense, rest.x, rest.y)
    if rows is not None:
        rows.fit(teacher, sample, torch.zeros_like if layer is None else layer)
