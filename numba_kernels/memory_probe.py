"""How fast this processor reads memory that fits into a given cache: the roof under which every kernel works."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from .compilation import kernel
from .threads import run_chunks

__all__ = ["read_bandwidth"]


@kernel
def _read(words: Any, passes: int) -> Any:
    """Add `words` up again and again. Whole numbers, since their sums wait one cycle, not three or four."""
    total = np.int64(0)
    for _ in range(passes):
        subtotal = np.int64(0)
        for i in range(words.shape[0]):
            subtotal += words[i]
        total = 3 * total + subtotal
    return total


def read_bandwidth(size: int, threads: int = 1, seconds: float = 0.05) -> float:
    """Bytes per second read by `threads` threads together, each from its own `size` bytes, over and over.

    The best of the passes made in about `seconds`, since interruptions only ever slow a pass down.
    """
    arrays = [np.ones(max(size // 8, 1), dtype=np.int64) for _ in range(threads)]
    _read(arrays[0][:1], 1)  # compile

    def run(passes: int) -> float:
        start = time.perf_counter()
        run_chunks(lambda chunk: _read(arrays[chunk], passes), threads, threads)
        return time.perf_counter() - start

    run(1)
    passes = max(1, round(seconds / 5 / max(run(1), 1e-6)))
    return max(arrays[0].nbytes * threads * passes / run(passes) for _ in range(5))
