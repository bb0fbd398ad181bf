"""How far a training is, by the clock or by steps."""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["TrainingBudget"]


class TrainingBudget:
    """Ends after so many seconds or so many steps, whichever comes first, or when `stopped` says so."""

    def __init__(
        self, *, seconds: float | None, steps: int | None, stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.seconds, self._steps, self._stopped = seconds, steps, stopped
        self._begin = time.monotonic()
        self.steps_done = 0

    def count(self) -> None:
        """One step is done."""
        self.steps_done += 1

    def go_on(self, steps: int, seconds: float) -> None:
        """As after so many steps and seconds, those of an earlier session."""
        self.steps_done, self._begin = steps, time.monotonic() - seconds

    @property
    def spent(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._begin

    def fraction(self) -> float:
        """How much of the budget is used: 1 is the end."""
        return 1.0 if self._stopped() else self.share(self.steps_done, self.spent)

    def share(self, steps: int, seconds: float) -> float:
        """How much of the budget so many steps in so many seconds use."""
        by_steps = 0.0 if self._steps is None else steps / self._steps
        # One step is always done, however short the time.
        by_time = 0.0 if self.seconds is None or not steps else seconds / self.seconds
        return min(1.0, max(by_steps, by_time))
