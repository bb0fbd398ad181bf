"""What an analysis finds: errors over neurons for each layer, and what they say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CURVES", "MARGIN", "LayerCurves", "Point", "Results", "percent"]

MARGIN = 0.05
"""Errors closer than that, a twentieth of the layer's variance, count as the same."""

CURVES = ("fixed", "rows", "linear", "trees", "oracle")


@dataclass(frozen=True)
class Point:
    """One substitute: how many neurons a token uses of it (or its rank), and its error (see `LayerUnderStudy`)."""

    neurons: int
    error: float
    shape: str = ""
    """Of trees, such as 12x6."""
    among: int = 0
    """Of trees: the number of neurons that they stand for, of which they use at most as many."""


@dataclass(frozen=True)
class LayerCurves:
    """Points of one layer by ascending number of neurons; trees may lack at numbers for which there are none."""

    oracle: list[Point]
    fixed: list[Point]
    linear: list[Point]
    trees: list[Point]
    rows: list[Point] = field(default_factory=list)
    """Of the fixed choice beside token rows, from no neurons on; empty where the tokens are not known."""

    def at(self, neurons: int) -> dict[str, Point]:
        """The point of each curve at that number."""
        points = {
            name: next((p for p in getattr(self, name) if (p.among or p.neurons) == neurons), None) for name in CURVES
        }
        return {name: point for name, point in points.items() if point is not None}

    @property
    def greatest_gain(self) -> float:
        """By how much the oracle's error is below the fixed choice's, where that is most."""
        return max(fixed.error - oracle.error for fixed, oracle in zip(self.fixed, self.oracle, strict=True))

    @property
    def routing_can_pay(self) -> bool:
        """Whether choosing for each token brings more than the margin anywhere."""
        return self.greatest_gain > MARGIN

    def share_of_way(self, neurons: int) -> float | None:
        """From the fixed choice's error (0) to the oracle's (1), how far the trees get; below 0 they are worse.

        None where there are no trees, or the two ends are within the margin.
        """
        points = self.at(neurons)
        way = points["fixed"].error - points["oracle"].error
        if "trees" not in points or way <= MARGIN:
            return None
        return (points["fixed"].error - points["trees"].error) / way

    def of_rows(self, neurons: int) -> str:
        """What is to be said of token rows with that number of neurons; nothing where there are none."""
        points = self.at(neurons)
        if not self.rows or "rows" not in points:
            return ""
        alone, beside = self.rows[0].error, points["rows"].error
        return f"; rows for the tokens alone leave {alone:.3f}, beside {neurons:,} neurons {beside:.3f}"

    def conclusion(self, neurons: int) -> str:
        """A sentence or two, of that number of neurons."""
        return self._of_routing(neurons) + self.of_rows(neurons)

    def _of_routing(self, neurons: int) -> str:
        if not self.routing_can_pay:
            return (
                f"routing cannot pay here: nowhere is the oracle's error more than {MARGIN:g} below that of the fixed "
                f"choice (at most {max(0.0, self.greatest_gain):.3f}); this layer is better narrow and dense"
            )
        points = self.at(neurons)
        fixed, oracle = points["fixed"].error, points["oracle"].error
        if fixed - oracle <= MARGIN:
            return (
                f"with {neurons:,} neurons routing cannot pay: {fixed:.3f} by the fixed choice, {oracle:.3f} by the "
                f"oracle; with another number it can, by up to {self.greatest_gain:.3f}"
            )
        told = f"choosing for each token could be worth {fixed - oracle:.3f} with {neurons:,} neurons"
        share = self.share_of_way(neurons)
        if share is None:
            return f"{told}; there are no trees of so few neurons"
        trees = points["trees"]
        if share <= 0:
            return f"{told}; our placement ({trees.shape}, {trees.error:.3f}) is no better than the fixed choice"
        return f"{told}; our placement ({trees.shape}) goes {percent(share)} of that way"


@dataclass(frozen=True)
class Results:
    """An analysis."""

    source: str
    layers: list[LayerCurves]
    neurons: Sequence[int]
    at: int
    """The number of neurons that the table and the conclusions are about."""
    facts: dict[str, Any]
    """What was looked at: model, text, tokens, command."""

    def to_dict(self) -> dict[str, Any]:
        """For analysis.json."""
        return {
            "source": self.source,
            **self.facts,
            "neurons": list(self.neurons),
            "at": self.at,
            "margin": MARGIN,
            "layers": [
                {
                    "layer": index,
                    **{name: [_point(point) for point in getattr(curves, name)] for name in CURVES},
                    "share_of_way": curves.share_of_way(self.at),
                    "routing_can_pay": curves.routing_can_pay,
                    "conclusion": curves.conclusion(self.at),
                }
                for index, curves in enumerate(self.layers)
            ],
        }


def percent(share: float) -> str:
    """In whole percent, and none of them is -0."""
    return f"{round(100 * share) + 0}%"


def _point(point: Point) -> dict[str, Any]:
    shape = {"shape": point.shape, "for": point.among} if point.shape else {}
    return {"neurons": point.neurons, **shape, "error": round(point.error, 5)}
