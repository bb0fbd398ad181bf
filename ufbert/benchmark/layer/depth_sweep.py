"""Time over the depth of one tree: each level doubles the neurons and adds one to those a token visits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from ufbert.benchmark.report.results import Result
from ufbert.benchmark.settings import BenchmarkSettings, Shape
from ufbert.benchmark.timing import Threads, TimeBudget
from ufbert.system.resources import available_memory

from .run import LayerBenchmark

__all__ = ["DEPTHS", "sweep_depths"]

DEPTHS = range(5, 18)
MOST_TOKENS = 1024
# The dense layer doubles with the depth; a call of it may take this long.
DENSE_CALL_SECONDS = 0.3
USABLE_MEMORY = 0.4


def sweep_depths(
    settings: BenchmarkSettings,
    device: torch.device,
    limits: dict[str, Any],
    threads: Threads,
    seconds: float,
    dense: str | None,
    note: Callable[[str], None],
) -> list[Result]:
    """Ours at all depths that fit into memory, and the implementation `dense` as long as it is quick enough."""
    batch = max((b for b in settings.batches if b <= MOST_TOKENS), default=min(settings.batches))
    hidden = settings.shape.hidden_size
    budget = TimeBudget(seconds)
    results: list[Result] = []
    for depth in DEPTHS:
        neurons = (1 << (depth + 1)) - 1
        free = available_memory()
        if free is not None and 2 * 2 * neurons * hidden * 4 > USABLE_MEMORY * free:
            break
        last = [r for r in results if r.layer == "ff"]
        if dense and last and 2 * last[-1].microseconds_per_token * 1e-6 * batch > DENSE_CALL_SECONDS:
            dense = None
        shape = Shape(hidden_size=hidden, trees=1, depth=depth, intermediate_size=neurons if dense else 1)
        part = dataclasses.replace(
            settings,
            shape=shape,
            batches=(batch,),
            dtypes=settings.dtypes[:1],
            layers=1,
            implementations=("fff/ufbert", f"ff/{dense}") if dense else ("fff/ufbert",),
        )
        note(f"depth {depth}: {neurons:,} neurons, {depth + 1} visited")
        share = TimeBudget(budget.share(1.0, len(DEPTHS) - DEPTHS.index(depth)))
        benchmark = LayerBenchmark(part, device, limits, threads, share, lambda _: None, compared=False)
        benchmark.run()
        results += benchmark.results
    return results
