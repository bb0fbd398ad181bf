"""A command of a second or two, most of which is `import torch`: what of that can be left out.

`python -X importtime -m ufbert infer FOLDER FILE` shows what a start loads.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator

__all__ = ["quick_start"]


@contextlib.contextmanager
def quick_start() -> Iterator[None]:
    """For a process that runs one command: import torch and all else in the block, and nothing before.

    The garbage collector rests in the block, and never looks at what was there at its end, nor, when the process
    ends, at anything: that would take half a second and free nothing of use. Where torch has been imported already,
    nothing is changed.
    """
    if "torch" in sys.modules:
        yield
        return
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.freeze)
        if collecting:
            gc.enable()
