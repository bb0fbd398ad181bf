"""Launches the kernel that measures how fast a GPU's L2 cache is read."""

from __future__ import annotations

from .loading import Launch, enqueue

__all__ = ["BLOCKS", "BLOCK_THREADS", "KERNELS", "MACROS", "MAIN_FILE", "read_launches", "read_repeatedly"]

MAIN_FILE = "memory_probe.cu"
KERNELS = {"read_repeatedly": 4}
BLOCK_THREADS = 512
BLOCKS = 1024  # several to each multiprocessor of today's large GPUs
MACROS = (("BLOCK_THREADS", str(BLOCK_THREADS)),)


def read_launches(*, values: int, size: int, repetitions: int, result: int) -> list[Launch]:
    """The launches of `read_repeatedly`, without doing them."""
    if values % 16 or size % 16:
        raise ValueError("the values are read in aligned groups of 16 bytes")
    return [Launch("read_repeatedly", BLOCKS, (BLOCK_THREADS, 1, 1), (size // 16, repetitions, values, result))]


def read_repeatedly(*, values: int, size: int, repetitions: int, result: int, device: int, stream: int) -> None:
    """Read `size` bytes of float32 at `values` so many times; each of BLOCKS x BLOCK_THREADS threads leaves a sum.

    `result` has room for these sums. Enqueues one kernel and returns at once. Raises `CudaUnavailable`.
    """
    launches = read_launches(values=values, size=size, repetitions=repetitions, result=result)
    enqueue(MAIN_FILE, MACROS, tuple(KERNELS), launches, device, stream)
