"""The decorator every kernel wears, and the one message that explains a first call's delay."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
from numba.core import event

from .kernel_cache import KernelCache, why_not_writable

__all__ = ["kernel"]

logger = logging.getLogger("ufbert.numba_kernels")

# Reassociation and contraction let a dot product use vector registers. The flags that assume away NaN and
# infinity stay off: a token with a non-finite input must get a non-finite output.
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}

_kernels: set[str] = set()


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile at the first call for the types met, without the GIL, cached on disk (see `kernel_cache`).

    Bounds are unchecked in the kernel, so the wrappers check shapes before every call.
    """
    _kernels.add(function.__qualname__)
    compiled: Any = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(function)
    # What `cache=True` does with Numba's own cache, from Numba 0.61 to 0.68.
    compiled._cache = KernelCache(function)
    return compiled  # type: ignore[no-any-return]


class _Announcer(event.Listener):
    """Says once that kernels are being compiled. Numba fires the event only when the disk cache misses."""

    def __init__(self) -> None:
        self.announced = False

    def on_start(self, occurrence: Any) -> None:
        name = occurrence.data["dispatcher"].py_func.__qualname__
        if name not in _kernels or self.announced:
            return
        self.announced = True
        problem = why_not_writable()
        if problem is None:
            logger.warning("Compiling the CPU kernels for this processor; once, some seconds, then cached")
        else:
            KernelCache.writable = False
            logger.warning(
                "Compiling the CPU kernels for this processor, some seconds in each process: no folder to keep them "
                "in (%s); set NUMBA_CACHE_DIR to one that can be written",
                problem,
            )

    def on_end(self, occurrence: Any) -> None:
        """Nothing to say: the command that waited goes on."""


event.register("numba:compile", _Announcer())
