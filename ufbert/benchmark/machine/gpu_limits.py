"""What a GPU can do at best: matrix products with and without TF32, and reads from memory and from its L2 cache."""

from __future__ import annotations

from typing import Any

import torch

from ufbert.benchmark.layer.gpu_layers import no_gpu_kernels
from ufbert.benchmark.timing import Clock

from .tensor_float import tf32

__all__ = ["measure_gpu"]

MATRIX_SIDE = 8192
REPETITIONS = 8
MEMORY_VALUES = 128 << 20
# Small enough to stay in the half of the cache that is near each multiprocessor.
CACHE_SHARE = 4
CACHE_READS = 64


def measure_gpu(device: torch.device, dtypes: tuple[str, ...]) -> dict[str, Any]:
    """`gigaflops` per dtype (with float32 also "tf32"), `gigabytes_per_second` of L2 and DRAM, `cache_bytes`.

    L2 is read by a kernel of ours, and is left out where those cannot be compiled.
    """
    clock = Clock(device)
    gigaflops = {}
    for name in dtypes:
        gigaflops[name] = round(_matrix_product(clock, device, getattr(torch, name)), 1)
        if name == "float32":
            with tf32(True):
                gigaflops["tf32"] = round(_matrix_product(clock, device, torch.float32), 1)
    cache = int(torch.cuda.get_device_properties(device).L2_cache_size)
    speeds = {} if no_gpu_kernels() else {"L2": round(_read_cache(clock, device, cache), 1)}
    values = torch.ones(MEMORY_VALUES, device=device)
    speeds["DRAM"] = round(values.nbytes / _shortest(clock, torch.sum, values) / 1e9, 1)
    return {"gigaflops": gigaflops, "gigabytes_per_second": speeds, "cache_bytes": {"L2": cache}}


def _matrix_product(clock: Clock, device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a square product."""
    a, b = (torch.randn(MATRIX_SIDE, MATRIX_SIDE, device=device, dtype=dtype) for _ in range(2))
    return 2 * MATRIX_SIDE**3 / _shortest(clock, lambda x: x @ b, a) / 1e9


def _read_cache(clock: Clock, device: torch.device, cache: int) -> float:
    """GB/s of repeated reads of a part of the cache."""
    from ufbert.cuda import memory_probe

    size = cache // CACHE_SHARE // 16 * 16
    values = torch.ones(size // 4, device=device)
    result = torch.empty(memory_probe.BLOCKS * memory_probe.BLOCK_THREADS, device=device)

    def read(x: torch.Tensor) -> None:
        memory_probe.read_repeatedly(
            values=x.data_ptr(), size=size, repetitions=CACHE_READS, result=result.data_ptr(),
            device=x.get_device(), stream=torch.cuda.current_stream(device).cuda_stream,
        )  # fmt: skip

    return size * CACHE_READS / _shortest(clock, read, values) / 1e9


def _shortest(clock: Clock, function: Any, argument: torch.Tensor) -> float:
    """Seconds of the fastest of some calls, after an untimed one."""
    clock.time([(function, argument)])
    return min(clock.time([(function, argument)]) for _ in range(REPETITIONS))
