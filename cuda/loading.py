"""Compiled kernels in this process, and their launches: what all .cu files of this folder share."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from .compiler import cubin
from .machine import architecture, driver_version, require

__all__ = ["Launch", "enqueue"]

Macros = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Launch:
    """One kernel launch. All arguments are 64-bit integers: sizes and addresses."""

    kernel: str
    grid: int
    block: tuple[int, int, int]
    arguments: tuple[int, ...]


_loaded: dict[tuple[str, Macros, str], dict[str, Any]] = {}
_loading = threading.Lock()


def enqueue(
    main_file: str, macros: Macros, names: tuple[str, ...], launches: list[Launch], device: int, stream: int
) -> None:
    """Launch kernels of `main_file`, compiled with `macros`, in order on a stream of `device`; returns at once.

    `names` are all kernels of the file; the first call with these macros compiles and loads them. `stream` is a
    cudaStream_t, 0 the default stream. Raises `CudaUnavailable`.
    """
    if not launches:
        return
    require(device)
    from cuda.core import LEGACY_DEFAULT_STREAM, Device, LaunchConfig, Stream, launch

    Device(device).set_current()
    kernels = _kernels(main_file, macros, names, device)
    queue = Stream.from_handle(stream) if stream else LEGACY_DEFAULT_STREAM
    for step in launches:
        config = LaunchConfig(grid=step.grid, block=step.block)
        launch(queue, config, kernels[step.kernel], *step.arguments)


def _kernels(main_file: str, macros: Macros, names: tuple[str, ...], device: int) -> dict[str, Any]:
    """The compiled kernels by name, for the architecture of `device`; GPUs of one architecture share them."""
    key = (main_file, macros, architecture(device))
    kernels = _loaded.get(key)
    if kernels is None:
        from cuda.core import ObjectCode

        with _loading:
            if key not in _loaded:
                code = ObjectCode.from_cubin(cubin(macros, key[2], driver_version(), main_file))
                _loaded[key] = {name: code.get_kernel(name) for name in names}
            kernels = _loaded[key]
    return kernels
