"""The C library's memory allocator, told to keep what a training step frees for the next one."""

from __future__ import annotations

import ctypes
import functools

__all__ = ["keep_freed_memory"]

# mallopt's parameters, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
NEVER = -1
# Older glibc takes no more than half of a heap, 32 MiB.
THRESHOLDS = (1 << 30, 32 << 20)


@functools.cache
def keep_freed_memory() -> bool:
    """Stop glibc from returning large freed blocks to the system; whether it could be done.

    Every tensor of some hundred kilobytes would otherwise be mapped, zeroed and unmapped anew in each step:
    24 to 30 % of a step's processor time with the default model (32 sequences of 128 and of 32 tokens). Other
    C libraries, and systems but Linux, are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mapped = any(mallopt(M_MMAP_THRESHOLD, threshold) for threshold in THRESHOLDS)
    return bool(mapped and mallopt(M_TRIM_THRESHOLD, NEVER))
