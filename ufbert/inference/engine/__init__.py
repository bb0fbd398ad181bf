"""The encoder as inference on a CPU runs it: weights packed once in the precision asked for, and no padding."""

from .encoder import PackedEncoder
from .prepare import prepare

__all__ = ["PackedEncoder", "prepare"]
