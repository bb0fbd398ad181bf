"""The losses of the end-to-end training over its time, few enough points to keep and to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["LossCurve"]

MOST_POINTS = 1000  # an even number


class LossCurve:
    """Means of neighbouring steps: of twice as many steps as before, whenever there would be too many points."""

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        """`kept` is what an earlier session had from `to_dict`."""
        values = dict(kept or {})
        self.width: int = values.get("width", 1)
        """Steps of a point."""
        self.points: list[dict[str, float]] = [dict(point) for point in values.get("points", ())]
        """`seconds` and `step` of the last step in it, and the losses by name."""
        self._open: list[dict[str, float]] = [dict(point) for point in values.get("open", ())]

    def add(self, seconds: float, step: int, losses: Mapping[str, float]) -> None:
        """One step more, so many seconds after the beginning of the phase."""
        self._open.append({"seconds": seconds, "step": step, **losses})
        if len(self._open) == self.width:
            self.points.append(_mean(self._open))
            self._open = []
        if len(self.points) == MOST_POINTS:
            self.points = [_mean(self.points[i : i + 2]) for i in range(0, MOST_POINTS, 2)]
            self.width *= 2

    def whole(self) -> list[dict[str, float]]:
        """The points, with one for the steps that do not fill any."""
        return [*self.points, *([_mean(self._open)] if self._open else [])]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"width": self.width, "points": self.points, "open": self._open}


def _mean(points: Sequence[Mapping[str, float]]) -> dict[str, float]:
    means = {name: sum(point[name] for point in points) / len(points) for name in points[-1]}
    return {**means, "seconds": points[-1]["seconds"], "step": points[-1]["step"]}
