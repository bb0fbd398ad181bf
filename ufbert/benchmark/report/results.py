"""What a run found, and the JSON file that holds it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ufbert.benchmark.layer.implementations import Absent
from ufbert.benchmark.settings import BenchmarkSettings
from ufbert.benchmark.timing import Spread
from ufbert.system.atomic import write_file

from .comparisons import DenseWidth, SharedPart
from .encoder_results import Breakdown, EncoderResult

__all__ = ["REPORTED", "SOURCE", "WIDE_SPREAD", "ModelResult", "Report", "Result", "compare", "compare_steps"]

SOURCE = "Belcak & Wattenhofer 2023, Exponentially Faster Language Modelling"
# The paper's figures for a 1x11 layer of BERT-base's width. They were measured elsewhere by others.
REPORTED: tuple[dict[str, Any], ...] = (
    {"layer": "fff", "implementation": "BLAS Level 1", "level": 1, "device": "cpu", "speedup_over_dense": 48.0},
    {"layer": "fff", "implementation": "BLAS Level 2", "level": 2, "device": "cpu", "speedup_over_dense": 78.0},
    {
        "layer": "fff", "implementation": "PyTorch BMM", "level": None, "device": "cpu",
        "speedup_over_same_method": 40.0,
    },
    {"layer": "fff", "implementation": "bound", "level": None, "device": None, "speedup_over_dense": 341.25},
)  # fmt: skip

# A median whose quartiles lie further apart than this share of it is not to be leaned on.
WIDE_SPREAD = 0.15


@dataclass(kw_only=True)
class Result:
    """One measured figure. Times are microseconds a token, of all threads together."""

    layer: str
    implementation: str
    level: int | None
    role: str
    device: str
    dtype: str
    threads: int
    batch: int
    direction: str
    weights: str
    """`warm`: one layer over and over; `cycled`: one layer after the other, as a model does; `flushed`: one layer
    on a GPU whose L2 cache is overwritten before each call."""
    layers: int
    """Layers in the cycle."""
    trees: int | None
    depth: int | None
    shared_neurons: int | None
    """Beside the trees; None for a dense layer."""
    hidden_size: int
    neurons: int
    """Neurons of the layer."""
    neurons_visited: int
    """Neurons that a token computes."""
    timed_tokens: int
    """Tokens of a timed call; fewer than `batch` where tokens are computed one by one."""
    spread: Spread
    """Seconds per call."""
    samples: int
    calls_per_sample: int
    checked_tokens: int
    largest_error: float
    """Largest relative error of a token against float64."""
    diverted_tokens: int
    """Tokens checked that took another path, at a logit within rounding of zero."""
    tf32: bool = False
    """Whether float32 products are made in TF32; the dense ones that are do not count for `speedup_over_dense`."""
    limits: dict[str, Any] = field(default_factory=dict)
    speedup_over_dense: float | None = None
    """Against the fastest dense implementation at this batch, dtype and kind of weights."""
    fastest_dense: str | None = None
    """That implementation."""
    speedup_over_dense_tf32: float | None = None
    """Against the fastest dense implementation in TF32, where there is one."""
    fastest_dense_tf32: str | None = None
    """That implementation."""
    speedup_over_same_method: float | None = None
    """Against the dense layer by the implementation of the same name."""
    share_of_bound: float | None = None
    """Speedup over the fastest dense, as a share of dense neurons over visited ones."""

    @property
    def microseconds_per_token(self) -> float:
        """The median."""
        return self.spread.median * 1e6 / self.timed_tokens

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON file."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        limits, spread = values.pop("limits"), values.pop("spread")
        scale = 1e6 / self.timed_tokens
        return {
            **values,
            "microseconds_per_token": self.microseconds_per_token,
            "spread": {
                "lower_quartile": spread.lower * scale,
                "upper_quartile": spread.upper * scale,
                "relative": spread.relative,
            },
            **limits,
        }


def compare(results: Sequence[Result]) -> None:
    """Fill in the speedups: each against the dense results of the same dtype, batch and kind of weights."""
    groups: dict[Any, list[Result]] = {}
    for result in results:
        groups.setdefault((result.dtype, result.batch, result.weights), []).append(result)
    for group in groups.values():
        everything = [r for r in group if r.layer == "ff" and r.role == "subject"]
        if rounded := [r for r in everything if r.tf32]:
            fastest = min(rounded, key=lambda r: r.microseconds_per_token)
            for result in group:
                result.fastest_dense_tf32 = fastest.implementation
                result.speedup_over_dense_tf32 = fastest.microseconds_per_token / result.microseconds_per_token
        dense = [r for r in everything if not r.tf32]
        if not dense:
            continue
        fastest = min(dense, key=lambda r: r.microseconds_per_token)
        by_name = {r.implementation: r for r in dense}
        for result in group:
            result.fastest_dense = fastest.implementation
            result.speedup_over_dense = fastest.microseconds_per_token / result.microseconds_per_token
            if result.layer == "fff" and result.role == "subject":
                bound = fastest.neurons / result.neurons_visited
                result.share_of_bound = result.speedup_over_dense / bound
                if same := by_name.get(result.implementation):
                    result.speedup_over_same_method = same.microseconds_per_token / result.microseconds_per_token


@dataclass(kw_only=True)
class ModelResult:
    """One measured figure of a whole model in training."""

    layer: str
    """`ff` (dense) or `fff`."""
    implementation: str
    level: int | None = None
    device: str
    dtype: str
    """Of the matrix products; weights are float32."""
    threads: int
    batch: int
    """Sequences of a call."""
    sequence_length: int
    layers: int
    spread: Spread
    samples: int
    calls_per_sample: int
    parameters: int
    parts: dict[str, float] = field(default_factory=dict)
    """Where a step's time goes, in microseconds a token; empty for compiled layers, which cannot be taken apart."""
    saved_bytes: int = 0
    """Bytes a token that all feedforward layers keep for the backward pass, their inputs and weights aside."""
    speedup_over_dense: float | None = None
    """Against the fastest dense model of any precision at this batch size."""
    fastest_dense: str | None = None
    speedup_over_masked: float | None = None
    """Against the published formulation in the precision that suits it best, at this batch size."""

    @property
    def tokens_per_second(self) -> float:
        """At the median."""
        return self.batch * self.sequence_length / self.spread.median

    def to_dict(self) -> dict[str, Any]:
        """The entry of the JSON file."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        spread = values.pop("spread")
        scale = 1e6 / (self.batch * self.sequence_length)
        return {
            **values,
            "tokens_per_second": self.tokens_per_second,
            "microseconds_per_token": spread.median * scale,
            "spread": {
                "lower_quartile": spread.lower * scale,
                "upper_quartile": spread.upper * scale,
                "relative": spread.relative,
            },
        }


def compare_steps(results: Sequence[ModelResult]) -> None:
    """Fill in the speedups, within each batch size."""
    for batch in {r.batch for r in results}:
        group = sorted((r for r in results if r.batch == batch), key=lambda r: -r.tokens_per_second)
        dense = next((r for r in group if r.layer == "ff"), None)
        masked = next((r for r in group if r.implementation == "torch-masked"), None)
        for result in group:
            if dense:
                result.fastest_dense = f"{dense.implementation} {dense.dtype}"
                result.speedup_over_dense = result.tokens_per_second / dense.tokens_per_second
            if masked:
                result.speedup_over_masked = result.tokens_per_second / masked.tokens_per_second


@dataclass
class Report:
    """A whole run."""

    settings: BenchmarkSettings
    machine: dict[str, Any]
    model: dict[str, Any] = field(default_factory=dict)
    """Of `encoder` on a checkpoint: what it is, and what the peers run."""
    paths: dict[str, Any] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)
    dense_widths: list[DenseWidth] = field(default_factory=list)
    """Of `layer`: how many dense neurons take the time of ours."""
    shared_parts: list[SharedPart] = field(default_factory=list)
    """Of `layer`: what the shared neurons cost."""
    sweep: list[Result] = field(default_factory=list)
    """Times over the depth of one tree."""
    models: list[ModelResult] = field(default_factory=list)
    """Results of `training`."""
    encoders: list[EncoderResult] = field(default_factory=list)
    """Results of `encoder`."""
    breakdowns: list[Breakdown] = field(default_factory=list)
    """Where a token's time goes in ours, of `encoder`."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else `encoder` found out."""
    absent: list[Absent] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    warned: int = 0
    """How many of the warnings have been shown."""
    seconds: float = 0.0
    """Wall-clock time the run took."""

    def to_dict(self) -> dict[str, Any]:
        """The content of the JSON file."""
        own: dict[str, Any] = {}
        if self.settings.subject == "encoder":
            own = {"breakdown": [entry.to_dict() for entry in self.breakdowns], "processes": self.facts}
            own |= {"model": self.model} if self.model else {}
        elif self.settings.subject == "layer":
            own = {
                "dense_widths": [entry.to_dict() for entry in self.dense_widths],
                "shared_parts": [entry.to_dict() for entry in self.shared_parts],
            }
        return {
            "machine": self.machine,
            "settings": self.settings.to_dict(),
            "paths": self.paths,
            "results": [result.to_dict() for result in (self.encoders or self.models or self.results)],
            **own,
            "depth_sweep": [result.to_dict() for result in self.sweep],
            "reported": [{**entry, "source": SOURCE} for entry in REPORTED],
            "absent": [dataclasses.asdict(entry) for entry in self.absent],
            "warnings": self.warnings,
            "seconds": round(self.seconds, 1),
        }

    def write(self, path: Path) -> None:
        """Write the JSON file, whole or not at all. Raises `OutputError` if it exists or cannot be written."""
        with write_file(path) as temporary:
            temporary.write_text(json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n", encoding="utf-8")

    @property
    def figures(self) -> list[Result | ModelResult | EncoderResult]:
        """Whatever was measured, but for the sweep."""
        return [*self.results, *self.models, *self.encoders]

    def wide(self) -> list[Result | ModelResult | EncoderResult]:
        """The results whose spread is wide."""
        return [r for r in self.figures if r.spread.relative > WIDE_SPREAD]
