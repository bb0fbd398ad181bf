"""The encoders' processes during a run: loaded, checked, warmed up, and sampled in turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ufbert.benchmark.layer.implementations import Absent
from ufbert.benchmark.models.peers.job import Job
from ufbert.benchmark.models.peers.process import Worker, WorkerError
from ufbert.benchmark.models.peers.roster import EncoderVariant
from ufbert.benchmark.timing import TimeBudget
from ufbert.system.resources import available_cores

__all__ = ["TOLERANCE", "EncoderProcess", "load_encoders", "lowest_cosine", "sample_in_turn", "state_errors", "warm_up"]

# Relative error of the median token's hidden state. Single tokens of trees may differ more: a decision within
# rounding of a tie goes another way, and attention carries it on.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2, "int8": 2e-1}

SAMPLE_SECONDS = 0.3
LEAST_ROUNDS, MOST_ROUNDS = 3, 60
# Single calls at batch 1, where the percentiles matter, even if the time is used up.
LEAST_SINGLE_CALLS = 20
# The pause before a sample, in which the threads of the process before it stop spinning.
SETTLE_SECONDS = 0.03
# A call that is shorter gets an untimed one before its samples, since the others emptied the caches.
SHORT_CALL_SECONDS = 0.5


@dataclass
class EncoderProcess:
    """An encoder in its process."""

    entry: EncoderVariant
    worker: Worker
    error: float
    """Relative error of the median token's hidden state."""
    largest_error: float
    """Of the worst token."""
    lowest_cosine: float
    """Between a token's hidden state and the reference's."""
    seconds_per_call: float = 0.0
    samples: list[list[float]] = field(default_factory=list)
    """Seconds of each call, by sample; of the batch size at hand."""

    @property
    def calls_per_sample(self) -> int:
        """As many as fill a sample."""
        return max(1, int(SAMPLE_SECONDS / max(self.seconds_per_call, 1e-6)))

    @property
    def untimed_calls(self) -> int:
        """Before each sample."""
        return 1 if self.seconds_per_call < SHORT_CALL_SECONDS else 0

    @property
    def cost(self) -> float:
        """Seconds of a round."""
        return (self.calls_per_sample + self.untimed_calls) * self.seconds_per_call + SETTLE_SECONDS


def load_encoders(
    entries: Sequence[EncoderVariant],
    make_job: Callable[[EncoderVariant], Job],
    stack: contextlib.ExitStack,
    tolerance: Mapping[str, float],
) -> tuple[list[EncoderProcess], list[Absent], dict[str, str]]:
    """Start a process for each, as many at a time as there are cores, and check what it computes.

    The processes end with `stack`; `tolerance` is of the median token, by precision. Returns those that compute
    rightly, the others with the reason, and the versions of the packages that they run on.
    """
    versions: dict[str, str] = {}

    def start(entry: EncoderVariant) -> EncoderProcess | Absent:
        job = make_job(entry)
        worker = Worker(job.threads, ours=not entry.encoder.is_peer)
        stack.callback(worker.close)
        states = job.path / f"states-{entry.encoder.name}-{entry.precision}.npy"
        try:
            versions.update(worker.ask("load", job=job.to_dict())["versions"])
            worker.ask("check", ids=str(job.path / "checked.npy"), states=str(states))
        except WorkerError as error:
            return entry.absent(str(error))
        found, reference = np.load(states), np.load(job.path / f"reference-{entry.encoder.layer}.npy")
        errors = state_errors(found, reference)
        allowed = tolerance[entry.precision]
        if not errors[0] <= allowed:
            reason = f"hidden states differ from the reference by {errors[0]:.2g} (allowed: {allowed:g})"
            return entry.absent(reason, wrong=True)
        return EncoderProcess(entry, worker, *errors, lowest_cosine(found, reference))

    with ThreadPoolExecutor(available_cores()) as executor:
        outcomes = list(executor.map(start, entries))
    absent = [outcome for outcome in outcomes if isinstance(outcome, Absent)]
    return [outcome for outcome in outcomes if isinstance(outcome, EncoderProcess)], absent, versions


def warm_up(process: EncoderProcess, batch: int) -> Absent | None:
    """Compile for the batch size and estimate a call's time; why it failed, if it did."""
    try:
        answer = process.worker.ask("shape", batch=batch)
    except WorkerError as error:
        return process.entry.absent(f"batch {batch}: {error}")
    process.seconds_per_call = answer["seconds_per_call"]
    process.samples = []
    return None


def sample_in_turn(processes: Sequence[EncoderProcess], batch: int, budget: TimeBudget) -> dict[int, Absent]:
    """Samples until the time is used up, but at least three of each, at batch 1 as many as have 20 calls.

    Returns those whose process died, by position.
    """
    cost = sum(process.cost for process in processes)
    least = LEAST_ROUNDS
    if batch == 1 and processes:
        least = max(least, -(-LEAST_SINGLE_CALLS // min(c.calls_per_sample for c in processes)))
    rounds = max(least, min(MOST_ROUNDS, int(budget.left() / max(cost, 1e-9))))
    dead: dict[int, Absent] = {}
    for _ in range(rounds):
        for position, process in enumerate(processes):
            if position in dead:
                continue
            time.sleep(SETTLE_SECONDS)
            calls = {"calls": process.calls_per_sample, "warm_up": process.untimed_calls}
            try:
                process.samples.append(process.worker.ask("sample", **calls)["seconds"])
            except WorkerError as error:
                dead[position] = process.entry.absent(f"batch {batch}: {error}")
    return dead


def state_errors(states: Any, reference: Any) -> tuple[float, float]:
    """Relative error of the median and of the worst token: (B, T, H) against (B, T, H)."""
    if states.shape != reference.shape:
        return float("inf"), float("inf")
    difference = np.linalg.norm(states.astype(np.float64) - reference, axis=-1)
    relative = difference / np.linalg.norm(reference, axis=-1)
    return float(np.median(relative)), float(np.max(relative))


def lowest_cosine(states: Any, reference: Any) -> float:
    """Between the hidden states of any token: (B, T, H) and (B, T, H)."""
    states, reference = states.astype(np.float64), reference.astype(np.float64)
    lengths = np.linalg.norm(states, axis=-1) * np.linalg.norm(reference, axis=-1)
    return float(np.min((states * reference).sum(-1) / lengths))
