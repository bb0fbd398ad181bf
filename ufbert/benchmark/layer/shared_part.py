"""What the shared neurons cost, beside a dense layer of as many neurons: timed in turns with the whole layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from ufbert.benchmark.report.comparisons import SharedPart
from ufbert.benchmark.settings import BenchmarkSettings, Shape
from ufbert.benchmark.timing import Contestant, Spread

from .ladder import timed
from .operands import TreeWeights
from .preparation import Cell, Preparation, seconds_per_token

__all__ = ["parts", "shared_parts"]

# Dense layers this near the fastest of a few calls are in the race.
NEAR = 1.3


def parts(
    preparation: Preparation,
    cell: Cell,
    whole: Contestant,
    dense: Sequence[Contestant],
    shape: Shape,
) -> list[Contestant]:
    """The trees alone by the implementation of `whole`, then dense layers of the shared neurons."""
    weights = cell.operands["fff", "subject"][0]
    assert isinstance(weights, TreeWeights)
    assert weights.shared is not None
    alone = dataclasses.replace(weights, shared=None)
    trees = preparation.with_weights(whole.key[0], alone, shape.neurons_visited - shape.shared_neurons, cell)
    if trees is None:
        return []
    rivals = [contestant.key[0] for contestant in dense]
    products = preparation.fastest(rivals, weights.shared, shape.shared_neurons, cell)
    if not products:
        return []
    limit = NEAR * seconds_per_token(products[0])
    return [trees, *(product for product in products if seconds_per_token(product) <= limit)]


def shared_parts(
    whole: Sequence[Contestant], found: Sequence[Contestant], cell: Cell, settings: BenchmarkSettings
) -> list[SharedPart]:
    """After the race, for each way to compute the `whole` layer."""
    trees, *products = found
    product = min(products, key=lambda c: timed(c).microseconds)
    return [
        SharedPart(
            dtype=cell.dtype_name,
            batch=cell.batch,
            direction=settings.direction,
            shared_neurons=settings.shape.shared_neurons,
            whole=timed(layer),
            trees=timed(trees),
            dense=timed(product),
            ratio=Spread.of(_by_turn(layer, trees, product, part=False)),
            part=Spread.of(_by_turn(layer, trees, product, part=True)),
        )
        for layer in whole
    ]


def _by_turn(whole: Contestant, trees: Contestant, product: Contestant, *, part: bool) -> list[float]:
    """The ratio in each turn: what slows the machine for a while meets all three.

    Of the whole layer over the sum, or of what it takes beyond the trees over the dense product.
    """
    per_token = [[s / c.key[0].tokens for s in c.samples] for c in (whole, trees, product)]
    turns = zip(*per_token, strict=True)
    return [(a - b) / c if part else a / (b + c) for a, b, c in turns]
