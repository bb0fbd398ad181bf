"""How fast original and student are: what is to be expected of their sizes, and the form of what was measured.

Who measures is told from outside: the packed engine and the timing in turns belong to rooms above this one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import UltraFastBertModel
from ufbert.training.throughput import PASSES, training_operations

__all__ = ["EncoderSpeed", "MeasuredSpeed", "SpeedTimer", "expected_rows", "operations_per_token"]


@dataclass(frozen=True)
class EncoderSpeed:
    """Tokens per second of one encoder in one precision: median and quartiles over its samples."""

    precision: str
    median: float
    lower: float
    upper: float
    samples: int

    def __str__(self) -> str:
        return f"{self.median:,.0f} tokens/s (quartiles {self.lower:,.0f} to {self.upper:,.0f})"


@dataclass(frozen=True)
class MeasuredSpeed:
    """Original and student on the same texts, timed in turns."""

    processor: str
    threads: int
    tokens: int
    """Of a call."""
    original: Sequence[EncoderSpeed]
    student: Sequence[EncoderSpeed]
    """In the same precisions."""
    disturbance: str = ""
    """What else the machine did meanwhile; empty if it was quiet."""

    @property
    def machine(self) -> str:
        """The processor, and whether it was quiet."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.processor}, {threads}" + (f"; meanwhile {self.disturbance}" if self.disturbance else "")

    @property
    def where(self) -> str:
        """The conditions, for the reader of the figures."""
        return f"calls of {self.tokens:,} tokens of held-out texts, in turns; {self.machine}"

    def rows(self) -> list[list[str]]:
        """Precision, original, student, and how many times as fast, of each precision."""
        return [
            [theirs.precision, str(theirs), str(ours), f"{ours.median / theirs.median:.2f} times"]
            for theirs, ours in zip(self.original, self.student, strict=True)
        ]


SpeedTimer: TypeAlias = Callable[
    [UltraFastBertModel, UltraFastBertModel, Sequence[Sequence[int]], float], MeasuredSpeed
]
"""(original, student, token ids of held-out texts, about how many seconds) -> what was measured."""


def operations_per_token(config: UltraFastBertConfig, tokens: float) -> float:
    """Floating-point operations of a token in the encoder's forward pass over a text of so many tokens."""
    return training_operations(config, round(tokens), 0.0) / PASSES


def expected_rows(original: UltraFastBertConfig, student: UltraFastBertConfig, tokens: float) -> list[list[str]]:
    """What, original, student, and how many times as many the original has."""
    theirs, ours = operations_per_token(original, tokens), operations_per_token(student, tokens)
    used = original.neurons_used, student.neurons_used
    return [
        ["neurons that a token uses in a layer", f"{used[0]:,}", f"{used[1]:,}", f"{used[0] / max(1, used[1]):.2f}"],
        ["neurons of a layer", f"{original.neurons_available:,}", f"{student.neurons_available:,}", ""],
        [
            f"operations of a token, in texts of {tokens:.0f} tokens",
            f"{theirs / 1e6:,.4g} M",
            f"{ours / 1e6:,.4g} M",
            f"{theirs / ours:.2f}",
        ],
    ]
