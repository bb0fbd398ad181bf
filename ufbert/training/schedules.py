"""The shapes of the learning rate, as shares of its peak."""

from __future__ import annotations

import math

__all__ = ["one_cycle", "triangle", "warm_up_then_decay"]

WARM_UP = 0.1
LEAST = 0.01


def triangle(done: float, peak: float, start: float = 0.0) -> float:
    """The share at `done` (from 0 to 1) of a run: linear from `start` up to 1 at `peak`, then down to 0 at 1."""
    if done < peak:
        return start + (1.0 - start) * done / peak
    return (1.0 - done) / (1.0 - peak) if peak < 1.0 else 1.0


def one_cycle(done: float) -> float:
    """The distillation's triangle: up over the first tenth, then down; never 0, so that every step trains."""
    return max(LEAST, triangle(done, WARM_UP))


def warm_up_then_decay(step: int, total: int, *, warmup_fraction: float, decay: str) -> float:
    """The share at `step` (from 0) of `total`: linear warm-up over a share of the steps, then `decay`.

    `decay` is `cosine` or `linear`, which end near 0, or `constant`.
    """
    warm_up = math.ceil(warmup_fraction * total)
    if step < warm_up:
        return (step + 1) / warm_up
    if decay == "constant":
        return 1.0
    done = (step - warm_up) / max(1, total - warm_up)
    return 0.5 * (1.0 + math.cos(math.pi * done)) if decay == "cosine" else 1.0 - done
