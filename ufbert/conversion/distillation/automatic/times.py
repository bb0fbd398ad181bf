"""What feedforward layers take of a model's time: the form of what was measured.

Who measures is told from outside: the packed engine and the timing in turns belong to rooms above this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.shapes import FeedforwardShape

__all__ = ["MeasuredTimes", "ShapeTimer"]


@dataclass(frozen=True)
class MeasuredTimes:
    """Microseconds a token, medians, as `ufbert infer` runs encoders on a CPU."""

    whole: float
    """Of the original's encoder."""
    shapes: Mapping[str, float]
    """Of one feedforward layer of each shape, with its norm; `none` takes no time."""
    precision: str
    tokens: int
    """Of a call; all different."""
    machine: str
    """The processor, its threads, and whether others used it meanwhile."""

    def estimate(self, before: Iterable[str], after: Iterable[str]) -> float:
        """Of the encoder whose layers of the shapes `before` have become those of `after`.

        What is left of the original beside them, attention and embeddings, stays; it takes no less than nothing.
        """
        rest = self.whole - sum(self.shapes[shape] for shape in before)
        return max(0.0, rest) + sum(self.shapes[shape] for shape in after)


ShapeTimer: TypeAlias = Callable[
    [UltraFastBertModel, Sequence[FeedforwardShape], Sequence[Sequence[int]], float], MeasuredTimes
]
"""(original, shapes, token ids of held-out texts, about how many seconds) -> what was measured."""
