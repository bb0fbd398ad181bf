"""What people see while a command runs: one console on stderr, progress bars, tables, notes.

Results go to stdout or a file; everything here goes to stderr, live on a terminal and plain elsewhere.
"""

from __future__ import annotations

import functools
import logging

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["console", "note", "progress", "show_log"]


@functools.cache
def console() -> Console:
    """The one console, on stderr."""
    return Console(stderr=True, highlight=False)


def note(text: str) -> None:
    """One plain line to the person who runs the command."""
    console().print(text, markup=False, soft_wrap=True)


def progress(*extra_columns: str) -> Progress:
    """A progress display; `extra_columns` are rich templates such as `{task.fields[loss]}`.

    Not on a terminal nothing is drawn, so that logs stay readable; callers then note milestones.
    """
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *(TextColumn(column) for column in extra_columns),
        console=console(),
        disable=not console().is_terminal,
    )


class _NoteHandler(logging.Handler):
    """A log line as a note. Rich's own handler breaks it into lines of 80 characters where there is no terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def show_log() -> None:
    """Send the package's log lines (kernel compilation, fallbacks) to the console."""
    logger = logging.getLogger("ufbert")
    if not logger.handlers:
        logger.addHandler(_NoteHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False
