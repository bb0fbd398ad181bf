"""Rows that are left out because they cannot be read."""

from __future__ import annotations

from dataclasses import dataclass

from ufbert.errors import DataError
from ufbert.reporting import note

__all__ = ["BadRows"]

SHOWN_BAD_ROWS = 5


@dataclass
class BadRows:
    """Counts the rows that are skipped and shows the first few."""

    count: int = 0
    shown: int = 0
    silent: bool = False
    """Whether to count only."""

    def __call__(self, error: DataError) -> None:
        """One more of them."""
        self.count += 1
        if not self.silent and self.shown < SHOWN_BAD_ROWS:
            self.shown += 1
            note(f"skipped: {error}")
