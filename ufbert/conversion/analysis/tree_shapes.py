"""Which trees stand for a number of neurons that a token may use."""

from __future__ import annotations

from ufbert.cmm.tree import node_count, visited_count
from ufbert.conversion.distillation.ridge import MAXIMUM_UNKNOWNS
from ufbert.model.shapes import FeedforwardShape

__all__ = ["shape_for"]

DEEPEST = 6
# Of shapes that are chosen here: twice as many nodes take the regression four times as long, for trees that no layer
# of 1,536 neurons would be converted into.
MOST_NODES = 3000
# A shape that uses fewer of the neurons is compared with more neurons than it has.
LEAST_USED = 0.95


def shape_for(neurons: int, depth: int | None = None) -> FeedforwardShape | None:
    """Trees that visit at most `neurons`, and as many as can be: of that depth, else of the deepest that do.

    Without a depth up to `DEEPEST`, and of at most `MOST_NODES`; with one, of as many nodes as the conversion still
    fits output weights to by one regression. None where there are no such trees.
    """
    most = MOST_NODES if depth is None else MAXIMUM_UNKNOWNS
    shapes = [
        FeedforwardShape.of_trees(neurons // visited_count(d), d)
        for d in ([depth] if depth is not None else range(DEEPEST, 0, -1))
        if neurons >= visited_count(d) and neurons // visited_count(d) * node_count(d) <= most
    ]
    for shape in shapes:
        if visited(shape) >= LEAST_USED * neurons:
            return shape
    return max(shapes, key=visited, default=None)


def visited(shape: FeedforwardShape) -> int:
    """Neurons of the trees that a token uses."""
    return shape.neurons_used
