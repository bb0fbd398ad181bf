"""Whether torch.compile can work on this machine."""

from __future__ import annotations

import shutil

import torch

__all__ = ["no_compiler"]


def no_compiler() -> str | None:
    """Why torch.compile cannot work here, or None."""
    if torch.cuda.is_available() or any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        return None
    return "torch.compile needs a C++ compiler, and none is installed"
