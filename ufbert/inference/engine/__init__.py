"""The encoder as inference on a CPU runs it: weights packed once in the precision asked for, and no padding."""

from .encoder import PackedEncoder
from .prepare import pack_encoder, prepare

__all__ = ["PackedEncoder", "pack_encoder", "prepare"]
