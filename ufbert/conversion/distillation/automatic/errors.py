"""What each shape makes of one layer in closed form, and how far that is from the layer, on held-out tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from ufbert.conversion.distillation.dense_initialization import RankedNeurons, initialize_dense
from ufbert.conversion.distillation.layer_inputs import LayerSample
from ufbert.conversion.distillation.layer_regression import relative_error
from ufbert.conversion.distillation.left_out import LeftOut, leave_out
from ufbert.conversion.distillation.student import new_trees
from ufbert.conversion.distillation.tree_initialization import initialize_trees
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import DenseFeedforward, Layer
from ufbert.model.fff import FFF
from ufbert.model.shapes import FeedforwardShape

__all__ = ["Fitted", "LayerFits", "Pace", "fit_shapes"]

WARM_UP_TOKENS = 64

Fitted = FFF | DenseFeedforward | LeftOut
"""What takes the place of a dense layer, untrained."""


class LayerFits:
    """Fits shapes to a dense layer. Neurons are ranked once for all dense shapes, so that the narrowest come first."""

    def __init__(self, teacher: Layer, config: UltraFastBertConfig, train: LayerSample, held_out: LayerSample) -> None:
        assert isinstance(teacher.feedforward, DenseFeedforward)
        self.teacher, self.dense, self.config = teacher, teacher.feedforward, config
        self.train, self.held_out = train, held_out
        self.mean = train.y.float().mean(0)  # (H,)
        self._ranked: RankedNeurons | None = None

    def warm_up(self, shapes: Sequence[FeedforwardShape]) -> None:
        """Fit one shape of each kind to a few tokens: what that imports and compiles is no measure of the next ones."""
        few = LayerSample(self.train.x[:WARM_UP_TOKENS], self.train.y[:WARM_UP_TOKENS])
        for shape in {shape.kind: shape for shape in reversed(shapes)}.values():
            LayerFits(self.teacher, self.config, few, few).fit(shape)

    def fit(self, shape: FeedforwardShape) -> tuple[float, Fitted]:
        """The squared relative error behind the norm on the held-out tokens, and what makes it.

        0 is exact, 1 is always putting out the mean, as in `relative_error`.
        """
        if shape.kind == "none":
            left_out = leave_out(self.teacher, self.teacher, self.train)
            return left_out.relative_error(self.teacher, self.held_out, self.mean) ** 2, left_out
        layer: FFF | DenseFeedforward
        device = self.train.x.device
        if shape.kind == "fff":
            layer = new_trees(self.config, shape, device)
            initialize_trees(layer, self.dense, self.train.x, self.train.y)
        else:
            self._ranked = self._ranked or RankedNeurons(self.dense, self.train.x)
            layer = DenseFeedforward(self.config, shape.intermediate_size).to(device)
            initialize_dense(layer, self.dense, self.train.x, self.train.y, self._ranked)
        layer.requires_grad_(False)
        return relative_error(layer, self.teacher, self.held_out, self.mean) ** 2, layer


class Pace:
    """How long it takes to fit a shape, by what has been fitted."""

    def __init__(self) -> None:
        self.seconds: dict[FeedforwardShape, float] = {}

    def expected(self, shape: FeedforwardShape) -> float:
        """Seconds, as the same shape took last; else as its kind took, by the number of neurons; else 0."""
        if shape in self.seconds:
            return self.seconds[shape]
        alike = sorted((s.neurons_available, seconds) for s, seconds in self.seconds.items() if s.kind == shape.kind)
        if not alike:
            return 0.0
        most, longest = alike[-1]
        if len(alike) == 1 or most == alike[-2][0]:
            return longest
        slope = max(0.0, (longest - alike[-2][1]) / (most - alike[-2][0]))
        return longest + slope * max(0, shape.neurons_available - most)


def fit_shapes(
    fits: LayerFits,
    shapes: Sequence[FeedforwardShape],
    pace: Pace,
    deadline: float,
    begins: Callable[[FeedforwardShape], None],
    clock: Callable[[], float] = time.monotonic,
) -> Mapping[FeedforwardShape, tuple[float, Fitted]]:
    """Error and layer of each of `shapes`, in their order, but of those that would not be ready by `deadline`.

    No feedforward layer is always among them, as its regression is no work. `begins` hears of each shape.
    """
    found = {}
    for shape in shapes:
        begun = clock()
        if shape.kind != "none" and begun + pace.expected(shape) >= deadline:
            continue
        begins(shape)
        found[shape] = fits.fit(shape)
        pace.seconds[shape] = clock() - begun
    return found
