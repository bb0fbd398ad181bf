"""What the machine can do at best, measured here and now, and how near an implementation comes to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ufbert.benchmark.settings import Shape
from ufbert.benchmark.timing import Clock
from ufbert.inference.engine.linear import multiplied_as, packs
from ufbert.system.resources import physical_memory

from .description import cache_sizes
from .gpu_limits import measure_gpu

__all__ = ["Traffic", "measure_limits", "share_of_limit"]

MATRIX_SIDE = 1024
REPETITIONS = 8
MEMORY_BYTES = 512 << 20


def measure_limits(device: torch.device, dtypes: tuple[str, ...], threads: int) -> dict[str, Any]:
    """GFLOP/s of the fastest matrix product per dtype, and GB/s read from each level of the memory.

    Takes about a second. The caches' figures are of one read loop over half a cache by each thread.
    """
    limits: dict[str, Any] = {"threads": threads, "gigaflops": {}, "gigabytes_per_second": {}}
    if device.type == "cuda":
        return {**limits, **measure_gpu(device, dtypes)}
    for name in dtypes:
        if name != "int8":
            limits["gigaflops"][name] = round(_matrix_product(device, getattr(torch, name)), 1)
        elif packs():
            limits["gigaflops"][name] = round(_byte_product(), 1)
    from ufbert.numba_kernels.memory_probe import read_bandwidth

    sizes = cache_sizes()
    shared = max(sizes, key=lambda level: int(level[1:]))
    for level, size in sizes.items():
        # Cores have their own caches but for the last level, which they divide.
        own = size // 2 // (threads if level == shared and len(sizes) > 2 else 1)
        limits["gigabytes_per_second"][level] = round(read_bandwidth(own, threads) / 1e9, 1)
    beyond = min(max(MEMORY_BYTES, 4 * max(sizes.values())), (physical_memory() or MEMORY_BYTES * 8) // 8)
    limits["gigabytes_per_second"]["DRAM"] = round(read_bandwidth(beyond // threads, threads, 0.2) / 1e9, 1)
    return limits


def _matrix_product(device: torch.device, dtype: torch.dtype) -> float:
    """GFLOP/s of a square product by whichever library is fastest here."""
    side = MATRIX_SIDE
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    products: list[Callable[[Any], Any]] = [lambda x: x @ b]
    if torch.backends.mkldnn.is_available():
        ops = torch.ops.mkldnn
        packed = ops._reorder_linear_weight(b, side)
        products.append(lambda x: ops._linear_pointwise(x, packed, None, "none", [], ""))
    if dtype == torch.float32:
        from scipy.linalg.blas import sgemm

        matrix = b.numpy().T
        products.append(lambda x: sgemm(1.0, matrix, x.numpy().T))
    return _best(products, a)


def _byte_product() -> float:
    """The same of bytes by oneDNN, with what it costs to scale the result into bfloat16."""
    side = MATRIX_SIDE
    a = torch.randint(0, 255, (side, side), dtype=torch.uint8)
    ops = torch.ops.onednn
    packed = ops.qlinear_prepack(torch.randint(-60, 60, (side, side), dtype=torch.int8), [side, side])
    scales, zeros = torch.ones(side), torch.zeros(side, dtype=torch.int32)
    out = multiplied_as(torch.bfloat16)
    return _best(
        [lambda x: ops.qlinear_pointwise(x, 1.0, 128, packed, scales, zeros, None, 1.0, 0, out, "none", [], "none")], a
    )


def _best(products: list[Callable[[Any], Any]], a: torch.Tensor) -> float:
    """GFLOP/s of the fastest of square products."""
    clock = Clock(a.device)
    best = float("inf")
    for product in products:
        clock.time([(product, a)])
        best = min(best, *(clock.time([(product, a)]) for _ in range(REPETITIONS)))
    return 2 * len(a) ** 3 / best / 1e9


class Traffic:
    """The least work a method must do for a call: operations, and bytes from where the weights lie."""

    def __init__(
        self, shape: Shape, neurons: int, batch: int, item_bytes: int, *, per_token: bool, shared: int = 0
    ) -> None:
        """`neurons` per token; `per_token` if each token reads its own weights, not all tokens the same.

        `shared` of the neurons have weights that all tokens read even so.
        """
        hidden = shape.hidden_size
        self.operations = 4 * neurons * hidden * batch
        rows = (neurons - shared) * batch + shared if per_token else neurons
        self.bytes = 2 * rows * hidden * item_bytes + 2 * batch * hidden * item_bytes


def share_of_limit(
    traffic: Traffic,
    seconds: float,
    dtype: str,
    working_set: int,
    limits: dict[str, Any],
    passes: float = 1.0,
    flushed: bool = False,
) -> dict[str, Any]:
    """Achieved GFLOP/s and GB/s, and the larger of the two shares of what was measured as possible.

    `working_set` are the bytes in turn, which tell the level of the memory that holds them, unless they were
    `flushed` from all caches. `passes` is 3 for forward and backward. A share above 1 means that the method reads
    less than assumed: tokens share rows.
    """
    gigaflops = passes * traffic.operations / seconds / 1e9
    gigabytes = passes * traffic.bytes / seconds / 1e9
    bandwidth = limits["gigabytes_per_second"]
    sizes = {} if flushed else limits.get("cache_bytes") or cache_sizes()
    level = next((name for name, size in sizes.items() if working_set <= size and name in bandwidth), "DRAM")
    compute = gigaflops / limits["gigaflops"][dtype]
    memory = gigabytes / bandwidth[level]
    return {
        "gigaflops": gigaflops,
        "gigabytes_per_second": gigabytes,
        "memory_level": level,
        "share_of_compute_limit": compute,
        "share_of_memory_limit": memory,
        "limited_by": "memory" if memory > compute else "compute",
    }
