"""Made-up results for the tests of what the benchmark makes of them."""

from __future__ import annotations

from typing import Any

from ufbert.benchmark.report.results import Result
from ufbert.benchmark.timing import Spread

LIMITS: dict[str, Any] = {
    "threads": 1,
    "gigaflops": {"float32": 100.0, "bfloat16": 200.0},
    "gigabytes_per_second": {"L1": 200.0, "L2": 100.0, "L3": 50.0, "DRAM": 10.0},
}


def figure(layer: str, name: str, microseconds: float, **changes: Any) -> Result:
    """A layer's result of so many microseconds a token, on the CPU unless `changes` says otherwise."""
    values: dict[str, Any] = {
        "layer": layer, "implementation": name, "level": None, "role": "subject", "device": "cpu", "dtype": "float32",
        "threads": 1, "batch": 4, "direction": "forward", "weights": "warm", "layers": 1, "trees": 1, "depth": 3,
        "shared_neurons": None,
        "hidden_size": 16, "neurons": 15, "neurons_visited": 4 if layer == "fff" else 15, "timed_tokens": 4,
        "spread": Spread(*[4e-6 * microseconds] * 3), "samples": 5, "calls_per_sample": 1, "checked_tokens": 4,
        "largest_error": 0.0, "diverted_tokens": 0,
    }  # fmt: skip
    return Result(**{**values, **changes})
