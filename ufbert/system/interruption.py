"""Ctrl-C and SIGTERM that wait until a run has saved, or until they can be obeyed."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from ufbert.reporting import note

__all__ = ["Interruption"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVING = "Stopping after this micro-batch, then saving. Once more stops at once, back at the last checkpoint."


class Interruption:
    """Within the block, the first SIGINT or SIGTERM sets `requested`; the second raises KeyboardInterrupt.

    `message` is what the person is told at the first one. Outside the main thread, which alone receives
    signals, it does nothing.
    """

    def __init__(self, message: str = SAVING) -> None:
        self.message = message
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        note(self.message)
