"""Whether torch.compile can work on this machine, and how to do without it for a while."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any

import torch
from torch import nn

__all__ = ["no_compiler", "uncompiled"]


def no_compiler() -> str | None:
    """Why torch.compile cannot work here, or None."""
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        return None
    return "torch.compile needs a C++ compiler, and none is installed"


def uncompiled(model: nn.Module) -> contextlib.AbstractContextManager[Any]:
    """Compiled parts of `model` run as they are written in the block; nothing is compiled for its shapes."""
    # Only where there are any: to ask for it loads torch's compiler.
    if any(module._compiled_call_impl is not None for module in model.modules()):
        stance: contextlib.AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
        return stance
    return contextlib.nullcontext()
