"""A command of a second or two, most of which is `import torch`: what of that can be left out.

`python -X importtime -m ufbert infer FOLDER FILE` shows what a start loads.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import sys
from collections.abc import Iterator
from types import ModuleType

__all__ = ["quick_start"]

# Registers how shapes pass through operators, for who traces a model (torch.compile, torch.export); a fifth of the
# import. Those modules import it themselves.
TRACING = "torch._meta_registrations"


@contextlib.contextmanager
def quick_start() -> Iterator[None]:
    """For a process that runs one command without tracing: import torch and all else in the block, and nothing before.

    The garbage collector rests meanwhile, and never looks at what was there at the end of the block, nor, when the
    process ends, at anything: it would find nothing among some million objects in half a second. Where torch has
    been imported already, nothing is changed.
    """
    if "torch" in sys.modules:
        yield
        return
    collected = gc.isenabled()
    gc.disable()
    sys.modules[TRACING] = ModuleType(TRACING)
    try:
        yield
    finally:
        # Whoever imports it from now on gets the real one.
        del sys.modules[TRACING]
        torch = sys.modules.get("torch")
        if torch is not None:
            vars(torch).pop(TRACING.rpartition(".")[2], None)
        gc.freeze()
        atexit.register(gc.freeze)
        if collected:
            gc.enable()
