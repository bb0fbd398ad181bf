"""Launches the benchmark's baseline: the forward pass as the paper's GPU kernel lays it out, a thread to a token.

Compiled, cached and launched like the kernels of `launcher.py`, and with the same terms for sizes and addresses.
"""

from __future__ import annotations

from dataclasses import dataclass

from .loading import Launch, enqueue
from .plan import DTYPES, GRID_LIMIT, specialize

__all__ = ["KERNELS", "MAIN_FILE", "NaiveLayout", "forward_launches", "run"]

MAIN_FILE = "naive.cu"
KERNELS = {"naive_forward": 8}
BLOCK_THREADS = 256


@dataclass(frozen=True)
class NaiveLayout:
    """The constants that one compiled module is made for."""

    dtype: str
    hidden: int
    depth: int

    @property
    def macros(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each macro that naive.cu expects."""
        return (
            ("SCALAR", DTYPES[self.dtype][0]),
            ("HIDDEN", str(self.hidden)),
            ("DEPTH", str(self.depth)),
            ("BLOCK_THREADS", str(BLOCK_THREADS)),
        )


def forward_launches(
    *,
    x: int,
    w_in: int,
    b_in: int,
    w_out: int,
    y: int,
    sums: int,
    tokens: int,
    hidden: int,
    trees: int,
    depth: int,
    dtype: str,
) -> tuple[NaiveLayout, list[Launch]]:
    """The constants and the launches, to `run`, that make the y of `launcher.forward`, without logits and leaves.

    `sums` is scratch memory of (T, H) float32 without content; for float32 it is `y` itself. Raises `ValueError`
    for a dtype or shape without kernels.
    """
    specialize(dtype, hidden, depth, 1)  # names what is wrong with a dtype or shape
    grid = -(-tokens // BLOCK_THREADS)
    if trees < 1 or not 0 <= grid <= GRID_LIMIT:
        raise ValueError(f"the naive kernel takes at least 1 tree and 0 tokens, not {trees} and {tokens}")
    arguments = (tokens, trees, x, w_in, b_in, w_out, y, sums)
    launches = [Launch("naive_forward", grid, (BLOCK_THREADS, 1, 1), arguments)] if tokens else []
    return NaiveLayout(dtype, hidden, depth), launches


def run(layout: NaiveLayout, launches: list[Launch], device: int, stream: int) -> None:
    """Enqueue the launches on a stream of `device` and return at once. Raises `CudaUnavailable`."""
    enqueue(MAIN_FILE, layout.macros, tuple(KERNELS), launches, device, stream)
