"""How far a training is, by the clock or by steps."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["TrainingBudget"]


class TrainingBudget:
    """Ends after so many seconds, or so many steps, or when `stopped` says so."""

    def __init__(
        self, *, seconds: float | None, steps: int | None, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self._seconds, self._steps, self._stopped = seconds, steps, stopped
        self._begin = time.monotonic()
        self.steps_done = 0

    def count(self) -> None:
        """One step is done."""
        self.steps_done += 1

    def fraction(self) -> float:
        """How much of the budget is used: 1 is the end."""
        if self._stopped():
            return 1.0
        if self._steps is not None:
            return min(1.0, self.steps_done / self._steps)
        assert self._seconds is not None
        # One step is always done, however short the time.
        used = (time.monotonic() - self._begin) / self._seconds if self.steps_done else 0.0
        return min(1.0, used)
