"""Fair timing: samples of all contestants in turn, medians and quartiles, within a budget.

A sample is as many calls as fill some milliseconds, each with other inputs than the call before, and for
weights `cycled` with another layer's weights. Contestants take turns (A B C A B C), so that a drift of the
clock or a neighbour's load meets all of them. What ran before has emptied the caches, hence every sample of
weights that are meant to be warm begins with calls that are not timed.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

__all__ = ["LONG_CALL_SECONDS", "Clock", "Contestant", "Spread", "Threads", "TimeBudget", "calibrate", "race"]

# Long enough that a sample averages over interrupts of the timer, short enough for many samples.
SAMPLE_SECONDS = 0.01
# Rounds that are taken even if the budget is used up; fewer where one takes long.
LEAST_ROUNDS = 5
LEAST_LONG_ROUNDS = 3
LONG_ROUND_SECONDS = 1.0
MOST_ROUNDS = 60
# Written over between calls that shall find nothing in a GPU's L2 cache; takes about 0.1 ms, uncounted.
LEAST_FLOOD = 256 << 20
MOST_FLUSHED_CALLS = 32
# A call of this length has every weight in the cache it fits into for nearly all of its time.
LONG_CALL_SECONDS = 0.1

Call = tuple[Callable[[Any], Any], Any]


class TimeBudget:
    """Wall-clock time that a run may take, divided among what is still to come."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until the end; negative once it has passed."""
        return self._end - time.monotonic()

    def share(self, weight: float, weights_to_come: float) -> float:
        """Seconds for a part of `weight`, where the parts to come (this one included) have these weights."""
        return max(0.0, self.left()) * weight / weights_to_come


class Threads(contextlib.AbstractContextManager["Threads"]):
    """The same number of threads for torch, every loaded BLAS and the CMM kernels, while the block lasts."""

    def __init__(self, threads: int) -> None:
        import scipy.linalg.blas  # noqa: F401  its BLAS must be loaded to be found
        from threadpoolctl import ThreadpoolController

        self.threads = threads
        self._blas = ThreadpoolController().select(user_api="blas").lib_controllers
        self._before: list[int] = []
        self._torch = torch.get_num_threads()

    def __enter__(self) -> Threads:
        self._torch = torch.get_num_threads()
        self._before = [library.get_num_threads() for library in self._blas]
        torch.set_num_threads(self.threads)  # the kernels follow torch
        self.set_blas(self.threads)
        return self

    def __exit__(self, *_: object) -> None:
        torch.set_num_threads(self._torch)
        for library, threads in zip(self._blas, self._before, strict=True):
            library.set_num_threads(threads)

    def set_blas(self, threads: int) -> None:
        """Another number for BLAS alone, where tokens are spread over threads outside of it."""
        for library in self._blas:
            library.set_num_threads(threads)


class Clock:
    """Seconds that a sequence of calls takes on a device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._flood: torch.Tensor | None = None

    def time(self, calls: Sequence[Call], *, flushed: bool = False) -> float:
        """Run the calls one after the other; a GPU is timed by its own events, from first to last kernel.

        `flushed` overwrites a GPU's L2 cache before each call, and counts the calls alone.
        """
        if flushed:
            return self._time_flushed(calls)
        if self._cuda:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin.record()
            for function, argument in calls:
                function(argument)
            end.record()
            torch.cuda.synchronize()
            return float(begin.elapsed_time(end)) / 1e3
        started = time.perf_counter_ns()
        for function, argument in calls:
            function(argument)
        return (time.perf_counter_ns() - started) / 1e9

    def _time_flushed(self, calls: Sequence[Call]) -> float:
        if self._flood is None:
            cache = torch.cuda.get_device_properties(self._device).L2_cache_size
            self._flood = torch.empty(max(LEAST_FLOOD, 4 * cache), dtype=torch.uint8, device=self._device)
        pairs = []
        torch.cuda.synchronize()
        for function, argument in calls:
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            self._flood.zero_()
            begin.record()
            function(argument)
            end.record()
            pairs.append((begin, end))
        torch.cuda.synchronize()
        return sum(float(begin.elapsed_time(end)) for begin, end in pairs) / 1e3


@dataclass
class Contestant:
    """One implementation with one or several layers' weights, on a row of inputs."""

    key: Any
    functions: Sequence[Callable[[Any], Any]]
    """One per layer, used in turn."""
    inputs: Sequence[Any]
    """Used in turn; the number of layers and of inputs need not divide each other."""
    before: Callable[[], None] = field(default=lambda: None)
    """Called before each sample, untimed."""
    flushed: bool = False
    """Whether a GPU's L2 cache is overwritten before each call."""
    seconds_per_call: float = 0.0
    """Estimate, by `calibrate`."""
    samples: list[float] = field(default_factory=list)
    """Seconds per call of each sample."""
    calls_per_sample: int = 1
    _position: Iterator[int] = field(default_factory=itertools.count)

    def calls(self, number: int) -> list[Call]:
        """The next calls."""
        return [
            (self.functions[i % len(self.functions)], self.inputs[i % len(self.inputs)])
            for i in itertools.islice(self._position, number)
        ]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a contestant's seconds per call."""

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """From at least one sample."""
        lower, median, upper = np.quantile(samples, (0.25, 0.5, 0.75))
        return cls(float(median), float(lower), float(upper))

    @property
    def relative(self) -> float:
        """Distance of the quartiles over the median."""
        return (self.upper - self.lower) / self.median


def calibrate(contestant: Contestant, clock: Clock) -> None:
    """Warm up, estimate the time of a call, and set how many make a sample."""
    contestant.before()
    most = MOST_FLUSHED_CALLS if contestant.flushed else None
    seconds = clock.time(contestant.calls(1), flushed=contestant.flushed)
    if seconds < LONG_CALL_SECONDS:
        seconds = clock.time(contestant.calls(1), flushed=contestant.flushed)
    if seconds < SAMPLE_SECONDS / 2:
        number = max(2, min(most or 100, int(SAMPLE_SECONDS / max(seconds, 1e-7) / 4)))
        seconds = clock.time(contestant.calls(number), flushed=contestant.flushed) / number
    contestant.seconds_per_call = seconds
    number = max(1, int(SAMPLE_SECONDS / max(seconds, 1e-7)))
    contestant.calls_per_sample = min(number, most or number)


def race(
    contestants: Sequence[Contestant],
    clock: Clock,
    seconds: float,
    advance: Callable[[int, int], None] = lambda _done, _rounds: None,
) -> int:
    """Take samples in turns for about `seconds`, three rounds at least; `advance` hears of each round.

    Returns the number of rounds. The contestants must be calibrated.
    """
    cost = sum(c.seconds_per_call * (c.calls_per_sample + _warm_up(c)) for c in contestants)
    least = LEAST_LONG_ROUNDS if cost > LONG_ROUND_SECONDS else LEAST_ROUNDS
    rounds = max(least, min(MOST_ROUNDS, int(seconds / max(cost, 1e-9))))
    collecting = gc.isenabled()
    gc.disable()
    try:
        for done in range(rounds):
            for contestant in contestants:
                contestant.before()
                if warm_up := _warm_up(contestant):
                    clock.time(contestant.calls(warm_up), flushed=contestant.flushed)
                calls = contestant.calls(contestant.calls_per_sample)
                contestant.samples.append(clock.time(calls, flushed=contestant.flushed) / len(calls))
            advance(done + 1, rounds)
    finally:
        if collecting:
            gc.enable()
    return rounds


def _warm_up(contestant: Contestant) -> int:
    """Untimed calls before a sample: as many as are timed, since other implementations have emptied the caches, and a
    thousand tokens bring back only some of the rows that the next ones need. Weights in a cycle are meant to come
    from memory and need none."""
    if len(contestant.functions) > 1 or contestant.seconds_per_call > LONG_CALL_SECONDS:
        return 0
    return contestant.calls_per_sample
