"""A command of a second or two, most of which is `import torch`: what of that can be left out.

`python -X importtime -m ufbert infer FOLDER FILE` shows what a start loads.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType

__all__ = ["quick_start"]

# How shapes pass through operators, for who traces a model: a fifth of what torch imports.
SHAPES = "torch._meta_registrations"
# Through which all tracing goes: torch.compile, torch.export, fake tensors.
TRACER = "torch._dynamo"


class _BeforeTracing(MetaPathFinder):
    """Imports `SHAPES` before `TRACER`, which expects it to be there; the search goes on with the other finders."""

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == TRACER:
            sys.meta_path.remove(self)
            importlib.import_module(SHAPES)


@contextlib.contextmanager
def quick_start() -> Iterator[None]:
    """For a process that runs one command without tracing: import torch and all else in the block, and nothing before.

    What only tracing needs comes with tracing. The garbage collector rests in the block, and never looks at what was
    there at its end, nor, when the process ends, at anything: that would take half a second and free nothing of use.
    Where torch has been imported already, nothing is changed.
    """
    if "torch" in sys.modules:
        yield
        return
    collecting = gc.isenabled()
    gc.disable()
    sys.modules[SHAPES] = ModuleType(SHAPES)
    try:
        yield
    finally:
        del sys.modules[SHAPES]
        if "torch" in sys.modules:
            vars(sys.modules["torch"]).pop(SHAPES.rpartition(".")[2], None)
            sys.meta_path.insert(0, _BeforeTracing())
        gc.freeze()
        atexit.register(gc.freeze)
        if collecting:
            gc.enable()
