"""What a person sees of a distillation: its stages, how far the whole of it is, and how long it will take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column

from ufbert.reporting import console, note
from ufbert.training.display import duration

__all__ = ["END_TO_END", "MEASURING", "READING", "RECORDING", "SURVEYING", "TIMING", "Stages", "layer_stage"]

READING, RECORDING, END_TO_END, MEASURING = "reading texts", "recording inputs", "end to end", "measuring"
SURVEYING, TIMING = "choosing shapes", "timing"
# Share of the whole after which a line is due where nothing is drawn, and the longest silence.
MILESTONE = 0.1
MILESTONE_SECONDS = 300.0


def layer_stage(index: int) -> str:
    """The name of the stage of one layer's regression."""
    return f"layer {index}"


@dataclass
class _Stage:
    name: str
    kind: str
    """Stages of one kind take about as long as each other."""
    expected: float | None = None
    """Seconds it will take; None if nothing is known."""
    begun: float | None = None
    first: float = 0.0
    """The share that an earlier session has done."""
    done: float = 0.0

    def total(self, now: float) -> float | None:
        """Seconds of the whole stage, by what has been done of it, else as expected."""
        if self.begun is not None and self.done > self.first:
            return (now - self.begun) / (self.done - self.first)
        return self.expected

    def left(self, now: float) -> float | None:
        """Seconds until its end."""
        total = self.total(now)
        if total is None:
            return None
        if self.begun is not None and self.done <= self.first:
            return max(0.0, total * (1.0 - self.first) - (now - self.begun))
        return total * (1.0 - self.done)


class Stages:
    """A live bar of the whole; off a terminal a line now and then, and one for each stage that says so."""

    def __init__(self, layers: Iterable[int], *, surveyed: bool = False) -> None:
        """`layers` are the numbers of those that are regressed; `surveyed` says that shapes are chosen first."""
        names = (READING, SURVEYING, RECORDING) if surveyed else (READING, RECORDING)
        one = [_Stage(name, name) for name in names]
        each = [_Stage(layer_stage(index), "layer") for index in layers]
        rest = [_Stage(name, name) for name in (END_TO_END, MEASURING, TIMING)]
        self._stages = [*one, *each, *rest]
        self._at = 0
        self._before = 0.0  # seconds of earlier sessions
        self._started = self._last_line = time.monotonic()
        self._next_milestone = MILESTONE
        self.live = console().is_terminal
        # Short columns, and what matters most first: a narrow terminal cuts off the end.
        self._bar = Progress(
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TextColumn("{task.description}  {task.fields[state]}", table_column=Column(no_wrap=True)),
            console=console(),
            disable=not self.live,
        )
        self._task = self._bar.add_task("", total=1.0, state="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def expect(self, seconds: float, names: Iterable[str]) -> None:
        """Each stage of `names` will take about so long."""
        chosen = set(names)
        for stage in self._stages:
            if stage.name in chosen:
                stage.expected = seconds

    def regress_only(self, layers: Iterable[int]) -> None:
        """Of the layers that were given, these are regressed, as has turned out before the first one is."""
        chosen = set(map(layer_stage, layers))
        self._stages = [stage for stage in self._stages if stage.kind != "layer" or stage.name in chosen]

    def go_on_after(self, seconds: float) -> None:
        """So many seconds of the work were done by earlier sessions."""
        self._before = seconds

    def begin(self, name: str, *, done: float = 0.0, line: bool = False) -> None:
        """The stage has begun, or goes on after the share `done`; those before it are over. `line` says so in one."""
        now = time.monotonic()
        last = self._stages[self._at]
        if last.begun is not None and last.name != name:
            last.done, spent = 1.0, now - last.begun
            for stage in self._stages[self._at + 1 :]:
                if stage.kind == last.kind:
                    stage.expected = spent
        self._at = next(i for i, stage in enumerate(self._stages) if stage.name == name)
        stage = self._stages[self._at]
        stage.begun, stage.first, stage.done = now, done, done
        self._show("", due=line)

    def show(self, done: float, state: str = "") -> None:
        """The share `done` of the stage is done; `state` are its figures."""
        self._stages[self._at].done = min(1.0, done)
        self._show(state)

    def left(self) -> float | None:
        """Seconds until the end of the last stage; None as long as nothing is known of one of them."""
        now = time.monotonic()
        here = self._stages[self._at]
        total = 0.0
        for stage in self._stages[self._at :]:
            seconds = stage.left(now)
            if seconds is None and stage.kind == here.kind:
                seconds = here.total(now)
            if seconds is None:
                return None
            total += seconds
        return total

    def left_text(self) -> str:
        """`; 3m 20s left`, or nothing."""
        left = self.left()
        return "" if left is None else f"; {duration(left)} left"

    def _show(self, state: str, *, due: bool = False) -> None:
        left, now = self.left(), time.monotonic()
        spent = self._before + now - self._started
        share = 0.0 if left is None else spent / max(1e-9, spent + left)
        name, left_text = self._stages[self._at].name, "" if left is None else f"{duration(left)} left"
        if self.live:
            shown = "  ".join(part for part in (left_text, state) if part)
            self._bar.update(self._task, completed=share, description=name, state=shown)
            return
        if due or (left is not None and share >= self._next_milestone) or now - self._last_line > MILESTONE_SECONDS:
            percent = "" if left is None else f"{100 * share:3.0f} %"
            note("  ".join(part for part in (percent, name, state, left_text) if part))
            self._next_milestone = (math.floor(share / MILESTONE + 1e-9) + 1) * MILESTONE
            self._last_line = now
