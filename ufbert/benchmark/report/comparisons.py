"""What a layer's time is worth in dense neurons: the dense width of the same time, and the price of shared neurons."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from ufbert.benchmark.timing import Spread

__all__ = ["DenseWidth", "Rung", "SharedPart", "Timed", "Width", "width_at"]


@dataclass(frozen=True, kw_only=True)
class Timed:
    """An implementation's microseconds a token: median and quartiles of its samples."""

    implementation: str
    microseconds: float
    lower: float
    upper: float

    @classmethod
    def of(cls, implementation: str, samples: Sequence[float], tokens: int) -> Self:
        """From seconds a call of `tokens`."""
        spread, scale = Spread.of(samples), 1e6 / tokens
        return cls(
            implementation=implementation,
            microseconds=spread.median * scale,
            lower=spread.lower * scale,
            upper=spread.upper * scale,
        )

    @property
    def relative(self) -> float:
        """Distance of the quartiles over the median."""
        return (self.upper - self.lower) / self.microseconds

    def to_dict(self) -> dict[str, Any]:
        """For the JSON file, with the names that the results have."""
        return {
            "implementation": self.implementation,
            "microseconds_per_token": self.microseconds,
            "lower_quartile": self.lower,
            "upper_quartile": self.upper,
        }


@dataclass(frozen=True)
class Rung:
    """A dense layer of so many neurons."""

    neurons: int
    time: Timed


@dataclass(frozen=True)
class Width:
    """A number of dense neurons, or that it lies beyond what was timed."""

    neurons: float
    beyond: str = ""
    """`<` or `>`: fewer than the narrowest layer timed, more than the widest; else empty."""

    def __str__(self) -> str:
        return f"{self.beyond} {self.neurons:,.0f}".strip()


def width_at(time: float, rungs: Sequence[tuple[int, float]]) -> Width:
    """The widest dense layer that takes `time`, from (neurons, time) of at least one, by linear interpolation.

    A layer costs no more than any wider one timed, which could be used in its place: so noise cannot make the
    times fall with the width. Nothing is extrapolated.
    """
    ordered = sorted(rungs)
    widths = [width for width, _ in ordered]
    times = list(itertools.accumulate((taken for _, taken in reversed(ordered)), min))[::-1]
    if time < times[0]:
        return Width(widths[0], "<")
    if time > times[-1]:
        return Width(widths[-1], ">")
    below = bisect.bisect_right(times, time) - 1
    if below == len(times) - 1:
        return Width(widths[-1])
    share = (time - times[below]) / (times[below + 1] - times[below])
    return Width(widths[below] + share * (widths[below + 1] - widths[below]))


@dataclass(frozen=True, kw_only=True)
class DenseWidth:
    """How many neurons the best dense implementation computes in the time of our layer, weights warm."""

    dtype: str
    batch: int
    neurons_visited: int
    ours: Timed
    rungs: list[Rung]
    """By width; the last is the full dense layer."""

    @property
    def width(self) -> Width:
        """By the medians."""
        return width_at(self.ours.microseconds, [(r.neurons, r.time.microseconds) for r in self.rungs])

    @property
    def lower(self) -> Width:
        """From the quartile at which ours is fast and the dense layers are slow."""
        return width_at(self.ours.lower, [(r.neurons, r.time.upper) for r in self.rungs])

    @property
    def upper(self) -> Width:
        """And the other way round."""
        return width_at(self.ours.upper, [(r.neurons, r.time.lower) for r in self.rungs])

    @property
    def neuron_ratio(self) -> float:
        """The time of a visited neuron over that of a neuron of the full dense layer."""
        full = self.rungs[-1]
        return (self.ours.microseconds / self.neurons_visited) / (full.time.microseconds / full.neurons)

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON file."""

        def width(found: Width) -> dict[str, Any]:
            return {"neurons": found.neurons, "beyond": found.beyond or None}

        return {
            "dtype": self.dtype,
            "batch": self.batch,
            "weights": "warm",
            "neurons_visited": self.neurons_visited,
            "ours": self.ours.to_dict(),
            "dense_width": width(self.width),
            "lower": width(self.lower),
            "upper": width(self.upper),
            "visited_over_dense_neuron": self.neuron_ratio,
            "rungs": [{"neurons": rung.neurons, **rung.time.to_dict()} for rung in self.rungs],
        }


@dataclass(frozen=True, kw_only=True)
class SharedPart:
    """Our layer with shared neurons, beside its trees alone and the best dense layer of the shared ones, all warm."""

    dtype: str
    batch: int
    direction: str
    shared_neurons: int
    whole: Timed
    trees: Timed
    dense: Timed
    ratio: Spread
    """The whole over the sum of the two, turn by turn."""
    part: Spread
    """What the whole takes beyond the trees, over the dense layer, turn by turn."""

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON file."""
        return {
            "dtype": self.dtype,
            "batch": self.batch,
            "direction": self.direction,
            "weights": "warm",
            "shared_neurons": self.shared_neurons,
            **{name: getattr(self, name).to_dict() for name in ("whole", "trees", "dense")},
            "whole_over_trees_and_dense": dataclasses.asdict(self.ratio),
            "shared_over_dense": dataclasses.asdict(self.part),
        }
