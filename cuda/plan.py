"""How a layer is laid over threads, blocks and workspace memory. Pure functions of sizes: nothing here needs a GPU.

Letters, as in the kernels: H hidden size, P trees, D depth; a tree has 2^(D+1) - 1 nodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

__all__ = [
    "DTYPES",
    "GRID_LIMIT",
    "MAXIMUM_DEPTH",
    "BackwardPlan",
    "Specialization",
    "Workspace",
    "backward_plan",
    "backward_workspace",
    "specialize",
    "token_grid",
    "vector_width",
    "weight_grid",
]

# Name of a dtype, as `str(tensor.dtype)` has it after "torch.": its C++ type in scalars.cuh, its bytes.
DTYPES = {"float32": ("float", 4), "float16": ("Half", 2), "bfloat16": ("BFloat16", 2)}

MAXIMUM_DEPTH = 31  # a warp keeps one level per lane
GRID_LIMIT = 2**31 - 1  # blocks of a one-dimensional grid; the kernels loop over what lies beyond
THREADS_PER_WARP = 32
ACCESS_BYTES = 16  # the widest load of one thread
REGISTER_VALUES = 32  # of a row in one thread; it holds the row and the sum of as many
TOKEN_BLOCK_WARPS = 4  # tokens to a block when each takes one warp
MAXIMUM_WARPS = 32  # of a block
REGISTER_SUMS = 64  # running sums of weight gradients in one thread, all levels together
BLOCK_THREADS = 128
SMALLEST_TILE = 64  # tokens; partial sums would outweigh the input below that
TILE_BLOCKS = 1024  # about 8 blocks to each of the 108 to 148 multiprocessors of today's large GPUs
ALIGNMENT = 256  # of each array in the workspace, in bytes


@dataclass(frozen=True)
class Specialization:
    """The constants that one compiled module is made for."""

    dtype: str
    hidden: int
    depth: int
    vector: int
    """Values in one load or store."""
    warps: int
    """Warps that share a token."""
    tokens_per_block: int
    columns: int
    """Columns of the weight gradients that one thread sums."""
    blocks: int
    """Blocks of the summing kernel that must fit on a multiprocessor: caps its registers."""

    @property
    def macros(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each macro that cmm.cu expects."""
        return (
            ("SCALAR", DTYPES[self.dtype][0]),
            ("HIDDEN", str(self.hidden)),
            ("DEPTH", str(self.depth)),
            ("VECTOR", str(self.vector)),
            ("WARPS", str(self.warps)),
            ("TOKENS_PER_BLOCK", str(self.tokens_per_block)),
            ("COLUMNS", str(self.columns)),
            ("BLOCK_THREADS", str(BLOCK_THREADS)),
            ("BLOCKS", str(self.blocks)),
        )

    @property
    def slices(self) -> int:
        """Blocks that share the columns of one tile's weight gradients."""
        return -(-self.hidden // (self.columns * BLOCK_THREADS))

    @property
    def token_block(self) -> tuple[int, int, int]:
        """Threads of a block of the kernels that work token by token."""
        return (THREADS_PER_WARP * self.warps, self.tokens_per_block, 1)

    @property
    def weight_block(self) -> tuple[int, int, int]:
        """Threads of a block of the kernels that sum weight gradients."""
        return (BLOCK_THREADS, 1, 1)


def vector_width(hidden: int, dtype: str, addresses: tuple[int, ...]) -> int:
    """Values that one access may move: a power of two of at most 16 bytes, dividing H and every address."""
    size = DTYPES[dtype][1]
    width = ACCESS_BYTES // size
    while hidden % width or any(address % (width * size) for address in addresses):
        width //= 2
    return width


@lru_cache(maxsize=256)
def specialize(dtype: str, hidden: int, depth: int, vector: int) -> Specialization:
    """The layout for a layer whose rows are read `vector` values at a time.

    Raises `ValueError` for a dtype without kernels, H < 1, or a depth outside 0 to 31.
    """
    if dtype not in DTYPES:
        raise ValueError(f"the CUDA kernels take {', '.join(DTYPES)}, not {dtype}")
    if hidden < 1 or not 0 <= depth <= MAXIMUM_DEPTH:
        raise ValueError(f"the CUDA kernels take depth 0 to {MAXIMUM_DEPTH} and a hidden size of at least 1")
    warps = 1
    while warps < MAXIMUM_WARPS and -(-hidden // (THREADS_PER_WARP * warps * vector)) * vector > REGISTER_VALUES:
        warps += 1
    columns = min(vector, 4)
    while columns > 1 and (depth + 1) * (2 * columns + 1) > REGISTER_SUMS:
        columns //= 2
    return Specialization(
        dtype=dtype,
        hidden=hidden,
        depth=depth,
        vector=vector,
        warps=warps,
        tokens_per_block=TOKEN_BLOCK_WARPS if warps == 1 else 1,
        columns=columns,
        blocks=4 if (depth + 1) * (2 * columns + 1) <= REGISTER_SUMS else 2,
    )


def token_grid(tokens: int, tokens_per_block: int) -> int:
    """Blocks of the kernels that work token by token."""
    return min(-(-tokens // tokens_per_block), GRID_LIMIT)


def weight_grid(items: int) -> int:
    """Blocks of the kernels that take one piece of weight gradient after another."""
    return min(items, GRID_LIMIT)


@dataclass(frozen=True)
class Workspace:
    """Byte offsets of the float32 arrays in the workspace of the backward pass, and its size."""

    coefficients: int
    """(tokens, P, 2, D + 1): of each visited node the factors of x and of g in its weight gradients."""
    partial_w_in: int
    """(P, tiles, 2, D + 1, H): sums of the runs that cross a tile's left and right edge."""
    partial_w_out: int
    """As `partial_w_in`."""
    partial_b_in: int
    """(P, tiles, 2, D + 1)."""
    size: int


@dataclass(frozen=True)
class BackwardPlan:
    """How the sorted tokens are cut into tiles, and where their sums lie."""

    tiles: int
    tile_tokens: int
    workspace: Workspace


@lru_cache(maxsize=1024)
def backward_plan(tokens: int, trees: int, depth: int, hidden: int, slices: int) -> BackwardPlan:
    """Tiles small enough to fill a GPU, large enough that partial sums stay a small part of the traffic.

    A function of the sizes alone, never of the GPU, so that the order of summation is the same everywhere.
    """
    tile_tokens = max(SMALLEST_TILE, -(-tokens * slices * trees // TILE_BLOCKS))
    tiles = -(-tokens // tile_tokens)
    levels = depth + 1
    rows = trees * tiles * 2 * levels
    offsets = [0]
    for values in (tokens * trees * 2 * levels, rows * hidden, rows * hidden, rows):
        offsets.append(offsets[-1] + -(-4 * values // ALIGNMENT) * ALIGNMENT)
    return BackwardPlan(tiles, tile_tokens, Workspace(*offsets))


def backward_workspace(*, tokens: int, hidden: int, trees: int, depth: int) -> int:
    """Bytes of device memory that `launcher.backward` needs at `workspace`, enough for every dtype."""
    # The narrowest columns make the most slices, hence the largest tiles and the least memory: take the widest.
    slices = {specialize(dtype, hidden, depth, width).slices for dtype in DTYPES for width in (1, 2, 4)}
    return max(backward_plan(tokens, trees, depth, hidden, count).workspace.size for count in slices)
