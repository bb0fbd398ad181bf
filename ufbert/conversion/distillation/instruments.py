"""What a distillation is lent by rooms beside and above this one."""

from __future__ import annotations

from dataclasses import dataclass

from .automatic.times import ShapeTimer
from .speed import SpeedTimer
from .teacher import EncoderPacker

__all__ = ["Instruments"]


@dataclass(frozen=True)
class Instruments:
    """Without the first two nothing is timed; without the last the teacher runs as the student does."""

    time_speed: SpeedTimer | None = None
    """Times original and student at the end."""
    time_shapes: ShapeTimer | None = None
    """Times feedforward layers before their shapes are chosen."""
    pack: EncoderPacker | None = None
    """Makes the teacher ready for inference."""
