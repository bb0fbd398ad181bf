"""A contestant's samples as a figure of the report."""

from __future__ import annotations

from typing import Any

from ufbert.benchmark.machine.limits import Traffic, share_of_limit
from ufbert.benchmark.report.results import Result
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.benchmark.timing import Contestant, Spread

from .preparation import Cell, PreparedImplementation

__all__ = ["figure"]


def figure(contestant: Contestant, cell: Cell, settings: BenchmarkSettings, limits: dict[str, Any]) -> Result:
    """The figure, with its share of what the machine can do."""
    entry: PreparedImplementation = contestant.key[0]
    kind: str = contestant.key[1]
    implementation, check, shape = entry.implementation, entry.check, settings.shape
    control = implementation.role == "control"
    conditional = implementation.layer == "fff"
    dense_neurons = shape.neurons_visited if control else shape.intermediate_size
    neurons = shape.neurons_available if conditional and not control else dense_neurons
    visited = shape.neurons_visited if conditional and not implementation.all_neurons else neurons
    spread = Spread.of(contestant.samples)
    layers = len(contestant.functions)
    item_bytes = cell.item_bytes
    one_by_one = implementation.per_token or (conditional and not control and not implementation.all_neurons)
    shared = shape.shared_neurons if conditional and not control else 0
    traffic = Traffic(shape, visited, entry.tokens, item_bytes, per_token=one_by_one, shared=shared)
    return Result(
        layer=implementation.layer,
        implementation=implementation.name,
        level=implementation.level,
        role=implementation.role,
        device=settings.device,
        dtype=cell.dtype_name,
        threads=settings.threads,
        batch=cell.batch,
        direction=settings.direction,
        weights=kind,
        layers=layers,
        trees=(shape.neurons_visited if control else shape.trees) if conditional else None,
        depth=(0 if control else shape.depth) if conditional else None,
        shared_neurons=shared if conditional else None,
        hidden_size=shape.hidden_size,
        neurons=neurons,
        neurons_visited=visited,
        timed_tokens=entry.tokens,
        spread=spread,
        samples=len(contestant.samples),
        calls_per_sample=contestant.calls_per_sample,
        checked_tokens=check.tokens,
        largest_error=check.error,
        diverted_tokens=check.diverted,
        tf32=implementation.tf32,
        limits=share_of_limit(
            traffic,
            spread.median,
            "tf32" if implementation.tf32 else cell.dtype_name,
            2 * neurons * shape.hidden_size * item_bytes * layers,
            limits,
            passes=3.0 if settings.direction == "training" else 1.0,
            flushed=kind == "flushed",
        ),
    )
