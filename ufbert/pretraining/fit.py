"""The course of a run: steps, measurements of the held-out loss and checkpoints, until its end or a signal."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from ufbert.errors import ConfigError
from ufbert.reporting import note
from ufbert.settings.sections import Settings, parse_duration
from ufbert.system.interruption import Interruption
from ufbert.system.processes import World
from ufbert.training.display import TrainingDisplay
from ufbert.training.schedules import Schedule
from ufbert.training.throughput import Throughput

from .held_out import HeldOut
from .metrics import MetricsLog
from .saving import CheckpointWriter
from .state import TrainingState
from .step import StepResult, TrainingStep

__all__ = ["NON_FINITE_STEPS", "Run", "fit"]

NON_FINITE_STEPS = 10
"""So many steps in a row without a finite loss are no accident."""


@dataclass
class Run:
    """What a run under way consists of, and where it stands."""

    settings: Settings
    state: TrainingState
    world: World
    device: torch.device
    training_step: TrainingStep
    held_out: HeldOut
    metrics: MetricsLog
    checkpoints: CheckpointWriter
    throughput: Throughput
    schedule: Schedule = field(init=False)
    clock_start: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        self.schedule = Schedule(self.settings.training)

    @property
    def sequence_length(self) -> int:
        """Tokens of a sequence."""
        return self.training_step.batches.sequence_length

    def progress(self) -> float:
        """The share of the run that is done, as the schedule counts it."""
        return self.schedule.progress(self.state.steps, self.state.tokens, self.state.seconds)

    def work(self) -> float:
        """The share of the run's computation that is done; early steps of a ramp are smaller than late ones."""
        left = self.schedule.sequences_left(self.state.steps, self.state.tokens, self.sequence_length)
        if math.isnan(left):
            return self.progress()
        return self.state.sequences / max(1.0, self.state.sequences + left)

    def next_batch(self) -> int:
        """The schedule's batch, cut where the run's tokens end."""
        batch, training = self.schedule.batch(self.progress()), self.settings.training
        if training.tokens:
            left = training.tokens - self.state.tokens
            batch = min(batch, math.ceil(left / self.sequence_length))
        return batch

    def position(self) -> dict[str, float]:
        """Where the run stands, for a row of the metrics."""
        return {"step": self.state.steps, "tokens": self.state.tokens, "seconds": round(self.state.seconds, 3)}

    def start_clock(self) -> None:
        """From here on time counts as the run's."""
        self.clock_start = time.perf_counter() - self.state.seconds

    def read_clock(self) -> None:
        """All processes take the leading one's time."""
        seconds = time.perf_counter() - self.clock_start
        self.state.seconds = self.world.share([seconds], self.device)[0]

    def measure(self) -> dict[str, Any]:
        """The held-out loss and tree health, by the leading process; what to add to the row of the metrics."""
        step = self.training_step
        if self.world.leads and len(self.held_out):
            found = self.held_out.measure(step.model, self.settings.training.micro_batch_size, step.dtype)
            self.state.add_held_out(found.loss, found.tree_health)
        health = {"tree_health": self.state.tree_health} if self.state.tree_health else {}
        return {"held_out_loss": self.state.held_out.get("last"), **health}


def fit(run: Run, interruption: Interruption) -> int:
    """Train from where the run stands to its end; returns the signal that stopped it before, or 0.

    Raises `ConfigError`, after saving, if the loss stays without a finite value.
    """
    training, state = run.settings.training, run.state
    save_every, evaluate_every = parse_duration(training.save_every), parse_duration(training.evaluate_every)
    last_saved = last_measured = state.seconds
    non_finite = 0
    with TrainingDisplay(run.work()) as display:
        while run.progress() < 1.0:
            # A signal may have reached one process only.
            if stopped_by := run.world.largest(interruption.received or 0, run.device):
                return stopped_by
            learning_rate, batch = run.schedule.learning_rate(run.progress()), run.next_batch()
            began = time.perf_counter()
            result = run.training_step.take(
                state.steps, state.sequences, batch, learning_rate, lambda: interruption.requested
            )
            if result is None:
                continue  # a signal within the step, seen above
            seconds, tokens = time.perf_counter() - began, batch * run.sequence_length
            state.steps += 1
            state.sequences += batch
            state.tokens += tokens
            run.throughput.add(tokens, seconds)
            non_finite = 0 if result.applied else non_finite + 1
            run.read_clock()

            measured: dict[str, Any] = {}
            saves = state.seconds - last_saved >= save_every
            # Of a checkpoint that is kept it shall be known how good it is.
            measures = state.seconds - last_measured >= evaluate_every or (saves and training.keep_checkpoints > 0)
            if measures and run.progress() < 1.0:
                measured = run.measure()
                run.read_clock()
                last_measured = state.seconds
            run.metrics.add(
                **run.position(),
                loss=result.loss,
                learning_rate=learning_rate,
                batch=batch,
                gradient_norm=result.gradient_norm,
                tokens_per_second=tokens / seconds,
                mfu=run.throughput.utilisation(tokens / seconds),
                **measured,
            )
            _note_skipped(run, result, non_finite, learning_rate, batch)
            display.step(
                steps=state.steps,
                work=run.work(),
                loss=result.loss,
                held_out=state.held_out.get("last"),
                tokens=tokens,
                seconds=seconds,
                learning_rate=learning_rate,
                utilisation=run.throughput.utilisation,
            )
            if saves:
                run.checkpoints.save_on_the_way()
                run.read_clock()
                last_saved = state.seconds
    return 0


def _note_skipped(run: Run, result: StepResult, non_finite: int, learning_rate: float, batch: int) -> None:
    """Say that a step, of so many sequences, was skipped; give up, saving, when that goes on."""
    if result.applied:
        return
    state = run.state
    state.skipped_steps += 1
    if non_finite == 1:
        note(
            f"Step {state.steps:,} (learning rate {learning_rate:.3g}, sequences {state.sequences - batch:,} to "
            f"{state.sequences - 1:,}): loss {result.loss}, gradient norm {result.gradient_norm}; skipped"
        )
    if non_finite >= NON_FINITE_STEPS:
        run.checkpoints.save()
        raise ConfigError(
            f"training diverged: {non_finite} steps in a row up to step {state.steps:,} had no finite "
            f"loss or gradient, the last at learning rate {learning_rate:.3g} on the run's sequences "
            f"{state.sequences - batch:,} to {state.sequences - 1:,}; the last finite weights are in "
            f"{run.checkpoints.folder}; lower training.peak_learning_rate"
        )
