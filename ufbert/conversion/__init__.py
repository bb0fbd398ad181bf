"""Checkpoints of other software read exactly, dense layers distilled into trees, and the way back out."""

from .conversion import convert_checkpoint, distillation_wanted
from .distillation_settings import DistillationSettings
from .source import FAMILIES, Source, load_source

__all__ = ["FAMILIES", "DistillationSettings", "Source", "convert_checkpoint", "distillation_wanted", "load_source"]
