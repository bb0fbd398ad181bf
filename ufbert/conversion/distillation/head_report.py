"""How near the outputs of a head come to the original's, on held-out rows: of the student, and of the control."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from .heads import Head

__all__ = ["HeadFigures", "HeadMeasurement", "HeadTally"]


@dataclass(frozen=True)
class HeadFigures:
    """How near a head's outputs come to the original's, over held-out rows."""

    agreement: float
    """Share of the rows whose best label is the same."""
    divergence: float
    """Mean of `Head.divergence`."""
    relative: float | None
    """Of values, else None: root of their squared error over that of always saying their mean."""


@dataclass(frozen=True)
class HeadMeasurement:
    """The student's head outputs, and the control's."""

    kind: str
    best: str
    unit: str
    rows: int
    student: HeadFigures
    control: HeadFigures

    def rows_of_figures(self) -> list[tuple[str, str, str]]:
        """What, student, control."""
        both = self.student, self.control
        if self.kind == "values":
            names = {"mean squared error": "divergence", "relative error of values": "relative"}
        else:
            same = "same labels" if self.kind == "binary" else f"same best {self.best}"
            names = {same: "agreement", "mean KL divergence, nats": "divergence"}
        values = {name: [getattr(figures, field) for figures in both] for name, field in names.items()}
        return [
            (name, *(f"{100 * v:.2f} %" if names[name] == "agreement" else f"{v:.4f}" for v in pair))  # type: ignore[misc]
            for name, pair in values.items()
        ]


class HeadTally:
    """Adds up what the heads say of batch after batch."""

    def __init__(self, head: Head | None) -> None:
        self.head = head
        self.rows = 0
        self.agreements, self.divergences = [0, 0], [0.0, 0.0]
        self.sums, self.squares = torch.zeros(0), 0.0

    def add(self, wanted: torch.Tensor, *others: torch.Tensor) -> None:
        """The original's outputs (rows, K), and those of student and control."""
        assert self.head is not None
        self.rows += len(wanted)
        for i, other in enumerate(others):
            self.agreements[i] += int(self.head.agrees(other, wanted).sum())
            self.divergences[i] += float(self.head.divergence(other, wanted).double().sum())
        if self.head.kind == "values":
            sums = wanted.double().sum(0)
            self.sums = self.sums + sums if len(self.sums) else sums
            self.squares += float(wanted.double().square().sum())

    def measurement(self) -> HeadMeasurement | None:
        """Of all batches; None without a head, or without a row."""
        if self.head is None or not self.rows:
            return None
        student, control = (
            HeadFigures(agreed / self.rows, divergence / self.rows, self._relative(divergence / self.rows))
            for agreed, divergence in zip(self.agreements, self.divergences, strict=True)
        )
        return HeadMeasurement(self.head.kind, self.head.best, self.head.unit, self.rows, student, control)

    def _relative(self, squared_error: float) -> float | None:
        if not len(self.sums):
            return None
        variance = (self.squares - float(self.sums.square().sum()) / self.rows) / self.rows / len(self.sums)
        return math.sqrt(squared_error / max(variance, 1e-30))
