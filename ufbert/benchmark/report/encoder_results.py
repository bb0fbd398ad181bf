"""What the encoder benchmark found: one figure for each implementation, precision and batch size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ufbert.benchmark.timing import Spread

__all__ = ["Breakdown", "EncoderResult", "Latency", "compare_encoders"]


@dataclass(frozen=True)
class Latency:
    """Percentiles of single calls, in seconds."""

    p50: float
    p90: float
    p99: float
    calls: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """From at least one call; of few calls, p99 is about the slowest of them."""
        p50, p90, p99 = np.percentile(seconds, (50, 90, 99))
        return cls(float(p50), float(p90), float(p99), len(seconds))


@dataclass(kw_only=True)
class EncoderResult:
    """One measured figure."""

    layer: str
    """`ff` (dense) or `fff`."""
    implementation: str
    peer: bool
    """Whether others made it."""
    level: int | None = None
    device: str
    dtype: str
    """float32, bfloat16 or int8, as far as the implementation goes down to it."""
    threads: int
    batch: int
    """Sequences of a call."""
    sequence_length: int
    layers: int
    spread: Spread
    """Seconds per call, over the samples."""
    samples: int
    calls_per_sample: int
    latency: Latency
    resident_bytes: int | None
    """Of its whole process after its samples: interpreter, framework, weights, activations."""
    peak_bytes: int | None
    """The most its process held so far, loading included."""
    error: float
    """Relative error of the median token's hidden state, against the reference in float32."""
    largest_error: float
    """Of the worst token."""
    lowest_cosine: float
    """Between a token's hidden state and the reference's."""
    speedup_over_dense: float | None = None
    """Against the fastest dense encoder of any precision at this batch size, our dense twin included."""
    fastest_dense: str | None = None
    speedup_over_peer: float | None = None
    """Against the fastest peer of any precision at this batch size."""
    fastest_peer: str | None = None

    @property
    def name(self) -> str:
        """With the precision."""
        return f"{self.implementation} {self.dtype}"

    @property
    def texts_per_second(self) -> float:
        """At the median."""
        return self.batch / self.spread.median

    @property
    def tokens_per_second(self) -> float:
        """At the median; no token is padding."""
        return self.texts_per_second * self.sequence_length

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON file."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        spread, latency = values.pop("spread"), values.pop("latency")
        scale = 1e6 / (self.batch * self.sequence_length)
        return {
            **values,
            "tokens_per_second": self.tokens_per_second,
            "texts_per_second": self.texts_per_second,
            "microseconds_per_token": spread.median * scale,
            "spread": {
                "lower_quartile": spread.lower * scale,
                "upper_quartile": spread.upper * scale,
                "relative": spread.relative,
            },
            "latency_milliseconds": {
                "p50": 1e3 * latency.p50, "p90": 1e3 * latency.p90, "p99": 1e3 * latency.p99, "calls": latency.calls,
            },
        }  # fmt: skip


@dataclass(kw_only=True)
class Breakdown:
    """Where a token's time goes in our encoder, in microseconds of all threads together."""

    implementation: str
    dtype: str
    batch: int
    sequence_length: int
    calls: int
    parts: dict[str, float]
    """Microseconds a token by part."""
    whole: float
    """Their sum."""
    without_timers: float
    """The same calls' time without timers around the modules."""
    tokenisation: float | None = None
    """Microseconds a token, on a thread of its own beside the model's; no part of the sum."""

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON file."""
        values = dataclasses.asdict(self)
        shares = {part: value / self.whole for part, value in self.parts.items()}
        return {
            "implementation": values.pop("implementation"),
            "dtype": values.pop("dtype"),
            "batch": values.pop("batch"),
            "sequence_length": values.pop("sequence_length"),
            "calls": values.pop("calls"),
            "microseconds_per_token": values,
            "shares": shares,
        }


def compare_encoders(results: Sequence[EncoderResult]) -> None:
    """Fill in the speedups, within each batch size."""
    for batch in {r.batch for r in results}:
        group = [r for r in results if r.batch == batch]
        dense = max((r for r in group if r.layer == "ff"), key=lambda r: r.tokens_per_second, default=None)
        peer = max((r for r in group if r.peer), key=lambda r: r.tokens_per_second, default=None)
        for result in group:
            if dense:
                result.fastest_dense = dense.name
                result.speedup_over_dense = result.tokens_per_second / dense.tokens_per_second
            if peer:
                result.fastest_peer = peer.name
                result.speedup_over_peer = result.tokens_per_second / peer.tokens_per_second
