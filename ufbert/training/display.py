"""What a person sees of a training: a live line on a terminal, milestones elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Column

from ufbert.reporting import console, note, progress

__all__ = ["ProgressDisplay", "TrainingDisplay", "duration"]

RECENT_STEPS = 20
MILESTONE = 0.1
# A long run would otherwise be silent for hours where nothing is drawn.
MILESTONE_SECONDS = 300.0


class TrainingDisplay:
    """Loss, held-out loss, tokens/s, their share of the hardware, learning rate and the time that is left."""

    def __init__(self, work_done: float) -> None:
        """`work_done` is the share of the run's work that earlier sessions have done."""
        self.live = console().is_terminal
        # Short columns, and what matters most first: a narrow terminal cuts off the end.
        self.bar = Progress(
            BarColumn(bar_width=12),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            console=console(),
            disable=not self.live,
        )
        self.task = self.bar.add_task("", total=1.0, state="first step ...")
        self.bar.update(self.task, completed=work_done)
        self.recent: deque[tuple[float, int, float]] = deque(maxlen=RECENT_STEPS)
        self.started = self.last_line = time.perf_counter()
        self.work_at_start = work_done
        self.next_milestone = work_done + MILESTONE

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def step(
        self,
        *,
        steps: int,
        work: float,
        loss: float,
        held_out: float | None,
        tokens: int,
        seconds: float,
        learning_rate: float,
        utilisation: Callable[[float], float],
    ) -> None:
        """After a step of `tokens` that took `seconds`; `work` is the share of the run's work now done.

        `utilisation` makes a share of the hardware (MFU) of tokens per second.
        """
        self.recent.append((loss, tokens, seconds))
        losses = [value for value, _, _ in self.recent if math.isfinite(value)]
        mean = sum(losses) / len(losses) if losses else math.nan
        speed = sum(t for _, t, _ in self.recent) / max(1e-9, sum(s for _, _, s in self.recent))
        done = max(1e-9, work - self.work_at_start)
        left = (time.perf_counter() - self.started) * (1.0 - work) / done
        measured = [f"held-out {held_out:.3f}"] if held_out is not None else []
        speed_text, left_text = f"{speed:,.0f} tokens/s", f"{duration(left)} left"
        share_text = f"MFU {100 * utilisation(speed):.1f} %"
        if self.live:
            parts = [f"loss {mean:.3f}", speed_text, left_text, share_text, f"lr {learning_rate:.1e}", *measured]
            self.bar.update(self.task, completed=work, state="  ".join(parts))
        elif work >= self.next_milestone or time.perf_counter() - self.last_line > MILESTONE_SECONDS:
            parts = [f"step {steps:,}", f"loss {mean:.3f}", *measured, speed_text]
            parts += [f"learning rate {learning_rate:.1e}", share_text, left_text]
            note(f"{100 * work:3.0f} %  {'  '.join(parts)}")
            self.next_milestone = (math.floor(work / MILESTONE + 1e-9) + 1) * MILESTONE
            self.last_line = time.perf_counter()


class ProgressDisplay:
    """A finetuning's or distillation's live bar; off a terminal a line whenever one is due, with the time left."""

    def __init__(self, description: str, total: float, *, share: float = math.inf, seconds: float = math.inf) -> None:
        """A line is due when `share` of the `total` work, or so many seconds, have gone since the last one."""
        self.bar = progress("{task.fields[state]}")
        self.live = not self.bar.disable
        self.task = self.bar.add_task(description, total=total, state="")
        self.total, self.share, self.seconds = total, share, seconds
        self.started = self.last_line = time.perf_counter()
        self.next_milestone = share

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def show(self, description: str, done: float, state: str = "", *, position: str = "") -> None:
        """`done` of the total work is done; `state` are the figures, `position` is added to a plain line."""
        if self.live:
            self.bar.update(self.task, completed=done, description=description, state=state)
            return
        now = time.perf_counter()
        work = done / self.total
        if work + 1e-9 >= self.next_milestone or now - self.last_line > self.seconds:
            left = (now - self.started) * (1.0 - work) / max(1e-9, work)
            note("  ".join(part for part in (description, position, state, f"{duration(left)} left") if part))
            self.next_milestone = (math.floor(work / self.share + 1e-9) + 1) * self.share
            self.last_line = now

    def restart_clock(self) -> None:
        """The next line is due so many seconds from now; for a caller that has just said how it stands."""
        self.last_line = time.perf_counter()


def duration(seconds: float) -> str:
    """`8s`, `2m 05s`, `3h 20m`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
