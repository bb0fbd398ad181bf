"""Ctrl-C and SIGTERM that wait until a run has saved, or until they can be obeyed."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from ufbert.reporting import note

__all__ = ["Interruption"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAVING = "Stopping after this micro-batch, then saving. A second Ctrl-C stops at once, back at the last checkpoint."


class Interruption:
    """Within the block, the first SIGINT or SIGTERM is `received`; a second SIGINT raises KeyboardInterrupt.

    A second SIGTERM does nothing: Slurm and torchrun send several within seconds, and who is impatient has
    SIGKILL. `message` is what the person is told at the first one, `terminating` if it is a SIGTERM that means
    something else. Outside the main thread, which alone receives signals, it does nothing.
    """

    def __init__(self, message: str = SAVING, terminating: str | None = None) -> None:
        self.messages = {signal.SIGINT: message, signal.SIGTERM: terminating or message}
        self.received: signal.Signals | None = None
        self._interrupts = 0
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    def obey(self) -> None:
        """After the block, let the signal that was held back do what it would have done, if one came."""
        if self.received is not None:
            signal.raise_signal(self.received)

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
        self._interrupts += number == signal.SIGINT
        if self._interrupts > 1:
            raise KeyboardInterrupt
        if self.received is None:
            self.received = signal.Signals(number)
            note(self.messages[self.received])
