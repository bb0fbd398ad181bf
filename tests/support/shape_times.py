"""Times of feedforward layers that no machine measured, for tests of the choice by them."""

from __future__ import annotations

from collections.abc import Sequence

from ufbert.conversion.distillation.automatic.times import MeasuredTimes
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.shapes import FeedforwardShape

__all__ = ["REST", "fixed_times", "microseconds"]

REST = 4.0
"""Microseconds a token of all but the feedforward layers."""


def microseconds(shape: FeedforwardShape) -> float:
    """A tenth for a dense neuron, twice that for a visited one of trees."""
    return 0.2 * shape.neurons_used if shape.kind == "fff" else 0.1 * shape.intermediate_size


def fixed_times(
    original: UltraFastBertModel, shapes: Sequence[FeedforwardShape], texts: Sequence[Sequence[int]], seconds: float
) -> MeasuredTimes:
    """In the place of `time_shapes`."""
    assert texts
    assert seconds > 0
    whole = REST + sum(map(microseconds, original.config.layer_shapes))
    return MeasuredTimes(whole, {str(s): microseconds(s) for s in shapes}, "float32", 1024, "a machine of the tests")
