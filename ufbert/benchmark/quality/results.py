"""What the losses and times say: means and noise, gap closed, the front of the best, and comparisons."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .measure import Measured
from .speed import Timing

__all__ = ["Comparison", "Results", "Row", "front", "pooled_deviation"]


@dataclass(kw_only=True)
class Row:
    """A variant in the table."""

    name: str
    feedforward: str
    """`fff`, `dense` or `none`."""
    time_of: str = ""
    """The variant whose time it takes."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Its settings where they are not the base's."""
    runs: dict[int, Measured] = field(default_factory=dict)
    """The finished ones by seed; one at least."""
    timings: dict[str, Timing] = field(default_factory=dict)
    """By precision."""
    expected: int = 0
    """Runs that the recipe asks for."""

    @property
    def losses(self) -> list[float]:
        """Of the seeds."""
        return [run.loss for run in self.runs.values()]

    @property
    def loss(self) -> float:
        """Their mean."""
        return statistics.fmean(self.losses)

    @property
    def deviation(self) -> float | None:
        """Their standard deviation; None for a single one."""
        return statistics.stdev(self.losses) if len(self.losses) > 1 else None

    @property
    def facts(self) -> Measured:
        """Of any run: what all have in common."""
        return next(iter(self.runs.values()))

    def microseconds(self, precision: str) -> float | None:
        """A token's time; None where it was not timed."""
        return self.timings[precision].microseconds if precision in self.timings else None


@dataclass(frozen=True)
class Comparison:
    """One variant beside another."""

    first: str
    second: str
    difference: float
    """Mean loss of the first less that of the second: below 0 the first is better."""
    deviations: float | None
    """The difference in standard deviations of a seed; None where they are not known."""
    times: dict[str, float]
    """By precision, the time of the first over that of the second."""


@dataclass(kw_only=True)
class Results:
    """All rows of a recipe's table, and what follows from them."""

    rows: list[Row]
    precisions: Sequence[str]
    precision: str
    """Of the times relative to the reference."""
    reference: str
    none: str
    twin: str

    @property
    def noise(self) -> float | None:
        """The pooled standard deviation of a seed, in nats."""
        return pooled_deviation(row.losses for row in self.rows)

    def row(self, name: str) -> Row | None:
        """By its name; None for one that is not there."""
        return next((row for row in self.rows if row.name == name), None)

    def relative_time(self, row: Row) -> float | None:
        """A token's time over the reference's."""
        reference = self.row(self.reference)
        mine, its = row.microseconds(self.precision), reference and reference.microseconds(self.precision)
        return mine / its if mine and its else None

    def gap_closed(self, row: Row) -> float | None:
        """(loss of none - loss) / (loss of none - loss of the dense twin); None where one of them is missing."""
        none, twin = self.row(self.none), self.row(self.twin)
        if none is None or twin is None or none.loss == twin.loss:
            return None
        return (none.loss - row.loss) / (none.loss - twin.loss)

    def gap_deviation(self, row: Row) -> float | None:
        """The standard error of `gap_closed`, to first order, from the noise of a seed and the number of seeds."""
        gap, none, twin, noise = self.gap_closed(row), self.row(self.none), self.row(self.twin), self.noise
        if gap is None or none is None or twin is None or noise is None or row in (none, twin):
            return None
        shares = ((1.0, row), (1 - gap, none), (gap, twin))
        variance = sum(share**2 / len(part.runs) for share, part in shares)
        return noise * math.sqrt(variance) / abs(none.loss - twin.loss)

    def front(self, precision: str) -> list[Row]:
        """The rows that no other one beats in both time and loss, the fastest first."""
        timed = {row.name: (time, row.loss) for row in self.rows if (time := row.microseconds(precision)) is not None}
        names = front(timed)
        return [row for name in names for row in self.rows if row.name == name]

    def compare(self, first: Row, second: Row) -> Comparison:
        """Their losses and times."""
        difference, noise = first.loss - second.loss, self.noise
        times = {
            precision: mine / its
            for precision in self.precisions
            if (mine := first.microseconds(precision)) and (its := second.microseconds(precision))
        }
        return Comparison(first.name, second.name, difference, difference / noise if noise else None, times)

    def scale(self) -> Comparison | None:
        """The dense twin against the encoder without feedforward layers: what there is to win at all."""
        none, twin = self.row(self.none), self.row(self.twin)
        return self.compare(twin, none) if none and twin and none is not twin else None

    def equal_times(self) -> list[Comparison]:
        """Each variant against the dense layers that take its time, the best one first."""
        pairs = [(self.row(row.time_of), row) for row in self.rows if row.time_of]
        found = sorted(((first, row) for first, row in pairs if first), key=lambda pair: pair[0].loss)
        return [self.compare(first, row) for first, row in found]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        fronts = {precision: [row.name for row in self.front(precision)] for precision in self.precisions}
        return {
            "noise": self.noise,
            "precision": self.precision,
            "reference": self.reference,
            "none": self.none,
            "twin": self.twin,
            "fronts": fronts,
            "scale": vars(scale) if (scale := self.scale()) else None,
            "equal_times": [vars(comparison) for comparison in self.equal_times()],
            "variants": [self._row_dict(row) for row in self.rows],
        }

    def _row_dict(self, row: Row) -> dict[str, Any]:
        facts = row.facts
        return {
            "name": row.name,
            "feedforward": row.feedforward,
            "time_of": row.time_of,
            "settings": row.changes,
            "neurons_used": facts.neurons_used,
            "neurons_available": facts.neurons_available,
            "parameters": facts.parameters,
            "tokens": facts.tokens,
            "loss": row.loss,
            "loss_deviation": row.deviation,
            "relative_time": self.relative_time(row),
            "gap_closed": self.gap_closed(row),
            "gap_closed_error": self.gap_deviation(row),
            "speed": {
                precision: {**vars(timing), "tokens_per_second": timing.tokens_per_second}
                for precision, timing in row.timings.items()
            },
            "runs": [{"seed": seed, **vars(run)} for seed, run in row.runs.items()],
        }


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The names whose (time, loss) no other one reaches or beats in both, the fastest first."""
    best, names = math.inf, []
    for name, (_, loss) in sorted(points.items(), key=lambda point: point[1]):
        if loss < best:
            best = loss
            names.append(name)
    return names


def pooled_deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """The standard deviation within the groups, over all of them; None where no group has two."""
    squares, freedom = 0.0, 0
    for group in groups:
        if len(group) > 1:
            squares += statistics.variance(group) * (len(group) - 1)
            freedom += len(group) - 1
    return math.sqrt(squares / freedom) if freedom else None
