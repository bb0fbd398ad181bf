"""How fast the encoders are as `ufbert infer` runs them on a CPU: all in turns, on batches of the held-out text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ufbert.benchmark.models.peers.job import Job
from ufbert.benchmark.models.peers.ours import Ours
from ufbert.benchmark.timing import Clock, Contestant, Spread, Threads, calibrate, race
from ufbert.system.resources import available_cores
from ufbert.text.corpus import TokenBlocks

from .recipe import Speed

__all__ = ["Timing", "busy", "time_encoders"]

# Cores that others may use before a figure becomes doubtful.
BUSY_CORES = 0.1
# Different inputs in turn, as `bench encoder` has.
INPUTS = 8


@dataclass(frozen=True)
class Timing:
    """One encoder in one precision: microseconds a token, median and quartiles over its samples."""

    microseconds: float
    lower: float
    upper: float
    samples: int

    @property
    def tokens_per_second(self) -> float:
        """At the median."""
        return 1e6 / self.microseconds

    @property
    def spread(self) -> float:
        """Distance of the quartiles over the median."""
        return (self.upper - self.lower) / self.microseconds


def busy(others: Mapping[str, float] | None) -> str:
    """What is to be said of `foreign_share` while something was timed; empty for a quiet machine."""
    if not others or max(others.values()) <= BUSY_CORES:
        return ""
    return f"others used {others['busy_cores']:.1f} cores, the host took {others['stolen_cores']:.1f}"


def time_encoders(
    folders: Mapping[str, Path], precisions: Sequence[str], text: TokenBlocks, speed: Speed, seconds: float
) -> dict[tuple[str, str], Timing]:
    """Time the checkpoints in `folders` for about `seconds`; by name and precision.

    A call takes `speed.batch` blocks of `text`, the same ones for all. Every sample follows as many calls that are
    not timed, so that small weights are in the caches for all alike.
    """
    threads = speed.threads or available_cores()
    batches = _draw(text, speed.batch)
    contestants = []
    with Threads(threads):
        clock = Clock(torch.device("cpu"))
        for name, folder in folders.items():
            for precision in precisions:
                contestant = _contestant((name, precision), folder, batches, threads)
                calibrate(contestant, clock)
                contestants.append(contestant)
        race(contestants, clock, seconds)
    scale = 1e6 / batches[0].size
    timings = {}
    for contestant in contestants:
        spread = Spread.of(contestant.samples)
        values = (spread.median * scale, spread.lower * scale, spread.upper * scale)
        timings[contestant.key] = Timing(*values, samples=len(contestant.samples))
    return timings


def _contestant(key: tuple[str, str], folder: Path, batches: Sequence[Any], threads: int) -> Contestant:
    encoder = Ours(
        Job(
            module="ours",
            precision=key[1],
            device="cpu",
            threads=threads,
            folder=str(folder.parent),
            sequence_length=batches[0].shape[1],
            vocabulary=0,  # of inputs that a worker would draw
            seed=0,
            options={"model": folder.name},
        )
    )
    return Contestant(key, [encoder.run], [encoder.take(ids) for ids in batches])


def _draw(text: TokenBlocks, batch: int) -> list[Any]:
    """Batches (B, T) of blocks, evenly spread over the text; a short text repeats."""
    chosen = np.linspace(0, len(text), INPUTS * batch, endpoint=False).astype(np.int64)
    return [text[chosen[number::INPUTS]] for number in range(INPUTS)]
