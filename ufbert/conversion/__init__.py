"""Checkpoints of other software read exactly, dense layers distilled into trees, and the way back out."""

from ufbert.conversion.readers.source import FAMILIES, Source, load_source
from ufbert.settings.distillation import DistillationSettings

from .run import convert_checkpoint, distillation_wanted

__all__ = ["FAMILIES", "DistillationSettings", "Source", "convert_checkpoint", "distillation_wanted", "load_source"]
