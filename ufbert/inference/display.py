"""What a person sees of the work while it goes on."""

from __future__ import annotations

import sys
import time

from rich.progress import Progress

from ufbert.reporting import console, note, progress

__all__ = ["Display"]

# Without a terminal there is no bar; a line so often tells a log that the work goes on.
SECONDS_BETWEEN_NOTES = 30.0


class Display:
    """A progress bar with texts/s and the time left on a terminal; a line now and then elsewhere."""

    def __init__(
        self, total: int | None, *, done: int = 0, results_on_stdout: bool = False, shown: bool = True
    ) -> None:
        """`total` texts, as far as known, of which an earlier run has `done`; nothing appears unless `shown`."""
        self.total, self.done, self.shown = total, done, shown
        self.bar: Progress = progress("{task.fields[rate]}")
        # Results scroll through the bar if both go to one terminal.
        self.bar.disable = not shown or not console().is_terminal or (results_on_stdout and sys.stdout.isatty())
        self.start = self.last_note = time.monotonic()

    def __enter__(self) -> Display:
        self.bar.start()
        self.task = self.bar.add_task("infer", total=self.total, rate="")
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def update(self, texts: int) -> None:
        """`texts` are done so far, those of the earlier run included."""
        now = time.monotonic()
        rate = (texts - self.done) / max(now - self.start, 1e-9)
        if self.total is not None and texts > self.total:
            self.total = None  # the estimate was too low: better none than a wrong one
        self.bar.update(self.task, completed=texts, total=self.total, rate=f"{rate:,.0f} texts/s")
        if self.shown and not console().is_terminal and now - self.last_note > SECONDS_BETWEEN_NOTES:
            self.last_note = now
            left = ""
            if self.total and rate:
                left = f", about {max(self.total - texts, 0) / rate / 60:,.1f} minutes left"
            note(f"{texts:,} texts, {rate:,.0f} texts/s{left}")
