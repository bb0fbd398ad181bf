"""What each shape makes of one layer in closed form, and how far that is from the layer, on held-out tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ufbert.conversion.distillation.dense_initialization import RankedNeurons, initialize_dense
from ufbert.conversion.distillation.layer_inputs import LayerSample
from ufbert.conversion.distillation.layer_regression import relative_error
from ufbert.conversion.distillation.left_out import LeftOut, leave_out
from ufbert.conversion.distillation.student import new_trees
from ufbert.conversion.distillation.token_rows import RankedRows, RankedTokens
from ufbert.conversion.distillation.tree_initialization import initialize_trees
from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import DenseFeedforward, Layer
from ufbert.model.fff import FFF
from ufbert.model.shapes import FeedforwardShape
from ufbert.model.token_rows import TokenRows

__all__ = ["BesideRows", "Fitted", "LayerFits", "Pace", "fit_shapes"]

WARM_UP_TOKENS = 64


@dataclass(frozen=True)
class BesideRows:
    """Token rows, and the neurons beside them, if there are any."""

    neurons: FFF | DenseFeedforward | None
    rows: TokenRows


Fitted = FFF | DenseFeedforward | LeftOut | BesideRows
"""What takes the place of a dense layer, untrained."""


class LayerFits:
    """Fits shapes to a dense layer. Neurons are ranked once for all dense shapes, so that the narrowest come first."""

    def __init__(
        self,
        teacher: Layer,
        config: UltraFastBertConfig,
        train: LayerSample,
        held_out: LayerSample,
        tokens: RankedTokens | None = None,
    ) -> None:
        """`tokens` are for shapes with token rows."""
        assert isinstance(teacher.feedforward, DenseFeedforward)
        self.teacher, self.dense, self.config = teacher, teacher.feedforward, config
        self.train, self.held_out = train, held_out
        self.tokens = tokens
        self.mean = train.y.float().mean(0)  # (H,)
        self._ranked: RankedNeurons | None = None

    def warm_up(self, shapes: Sequence[FeedforwardShape]) -> None:
        """Fit one shape of each kind to a few tokens: what that imports and compiles is no measure of the next ones."""
        whole = self.train
        ids = None if whole.token_ids is None else whole.token_ids[:WARM_UP_TOKENS]
        few = LayerSample(whole.x[:WARM_UP_TOKENS], whole.y[:WARM_UP_TOKENS], ids)
        for shape in {shape.kind: shape for shape in reversed(shapes)}.values():
            LayerFits(self.teacher, self.config, few, few, self.tokens).fit(shape)

    def fit(self, shape: FeedforwardShape) -> tuple[float, Fitted]:
        """The squared relative error behind the norm on the held-out tokens, and what makes it.

        0 is exact, 1 is always putting out the mean, as in `relative_error`.
        """
        if shape.absent:
            left_out = leave_out(self.teacher, self.teacher, self.train)
            return left_out.relative_error(self.teacher, self.held_out, self.mean) ** 2, left_out
        if not shape.token_rows:
            neurons = self._neurons(shape, self.train)
            assert neurons is not None
            return relative_error(neurons, self.teacher, self.held_out, self.mean) ** 2, neurons
        assert self.tokens is not None
        rows = TokenRows(shape.token_rows, self.config.hidden_size, self.train.x.device).requires_grad_(False)
        ranked = RankedRows(rows, self.tokens)
        ranked.fit(self.teacher, self.train, None)
        neurons = self._neurons(shape, ranked.left_over(self.train))
        ranked.fit(self.teacher, self.train, torch.zeros_like if neurons is None else neurons)
        error = relative_error(neurons, self.teacher, self.held_out, self.mean, ranked)
        return error**2, BesideRows(neurons, rows)

    def _neurons(self, shape: FeedforwardShape, wanted: LayerSample) -> FFF | DenseFeedforward | None:
        """Those of the shape, fitted to the sample; None for rows alone."""
        if shape.kind == "none":
            return None
        layer: FFF | DenseFeedforward
        if shape.kind == "fff":
            layer = new_trees(self.config, shape, wanted.x.device)
            initialize_trees(layer, self.dense, wanted.x, wanted.y)
        else:
            self._ranked = self._ranked or RankedNeurons(self.dense, wanted.x)
            layer = DenseFeedforward(self.config, shape.intermediate_size).to(wanted.x.device)
            initialize_dense(layer, self.dense, wanted.x, wanted.y, self._ranked)
        return layer.requires_grad_(False)


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
