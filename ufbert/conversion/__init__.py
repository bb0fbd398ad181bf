"""Checkpoints of other software read exactly, dense layers distilled into trees, and the way back out."""

from ufbert.conversion.distillation.kept_phase import ConversionStopped
from ufbert.conversion.readers.checkpoint import FAMILIES, LoadedCheckpoint, load_checkpoint
from ufbert.settings.distillation import DistillationSettings

from .request import ConversionRequest
from .run import convert_checkpoint

__all__ = [
    "FAMILIES",
    "ConversionRequest",
    "ConversionStopped",
    "DistillationSettings",
    "LoadedCheckpoint",
    "convert_checkpoint",
    "load_checkpoint",
]
