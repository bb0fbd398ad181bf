"""NumPy in, NumPy out: checks shapes and types once, then runs the kernels over chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .few import MOST_TOKENS, forward_few
from .gradient import add_weight_gradients, order_by_leaf, token_gradients
from .layer import forward_chunk
from .masking import keep_paths as _keep_paths
from .records import Gradients, Neurons
from .threads import run_chunks

__all__ = ["STORAGES", "backward", "chunks_of", "forward", "forward_at", "keep_paths"]

Floats = npt.NDArray[np.floating[Any]]

# Numbers in the rows that the tokens of a chunk visit: 128 tokens with 12 rows of 768, about 0.1 ms. Fewer are not
# worth waking a thread for: with 32 tokens two threads took 3.4 us each and one 1.7, with 128 1.5 and 1.1.
FEWEST_NUMBERS_PER_CHUNK = 128 * 12 * 768
# Small enough that threads of unequal speed end together, large enough that handing a chunk out
# (about 10 us) costs little beside its work.
TOKENS_PER_CHUNK = 64
# Columns of one chunk of the weight gradients, whole vectors: x and g of the tokens added up together, and the
# gradients' rows of one path, are then 72 KB.
MOST_COLUMNS_PER_CHUNK = 384
LANES = 16


# The storage of x, w_in, w_out and y, and that of biases and logits, as empty arrays: a compiled kernel takes its
# types from them.
STORAGES: dict[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]] = {
    "float32": (np.empty(0, np.float32), np.empty(0, np.float32)),
    "float64": (np.empty(0, np.float64), np.empty(0, np.float64)),
    "bfloat16": (np.empty(0, np.uint16), np.empty(0, np.float32)),
}


def forward_at(
    storage: str, addresses: tuple[int, ...], tokens: int, trees: int, nodes: int, hidden: int, threads: int
) -> None:
    """`forward` on memory at `addresses`: x, w_in, b_in, w_out, y, logits, leaves; unchecked.

    `storage` is that of x, w_in, w_out and y; biases and logits are float64 with float64 and float32 otherwise.
    The last two addresses may be 0 for what is not wanted.
    """
    like, like_logits = STORAGES[storage]
    if threads == 1 or tokens * trees * nodes.bit_length() * hidden <= FEWEST_NUMBERS_PER_CHUNK:
        # One token takes 3 us; what stands around this call counts.
        if tokens:
            compute = forward_few if tokens <= MOST_TOKENS else forward_chunk
            compute(like, like_logits, addresses, 0, tokens, trees, nodes, hidden)
        return
    chunks = chunks_of(tokens, threads, trees * nodes.bit_length() * hidden)
    compute = forward_few if chunks[0][1] <= MOST_TOKENS else forward_chunk

    def work(chunk: int) -> None:
        compute(like, like_logits, addresses, *chunks[chunk], trees, nodes, hidden)

    run_chunks(work, len(chunks), threads)


def keep_paths(
    logits_all: Floats, logits: Floats | None, leaves: npt.NDArray[np.int64] | None, threads: int = 1
) -> None:
    """All logits (tokens, P, N), in place, to activations that are zero off each token's paths.

    `logits` (tokens, P, D + 1) and `leaves` (tokens, P) receive what was met, unless they are None.
    """
    tokens, _, nodes = logits_all.shape
    if (nodes + 1) & nodes or not logits_all.flags.c_contiguous:
        raise ValueError(f"logits_all {logits_all.shape} is no contiguous array of whole trees")
    keep = logits is not None and leaves is not None
    met = logits if logits is not None else np.empty((0, 0, 0), logits_all.dtype)
    reached = leaves if leaves is not None else np.empty((0, 0), np.int64)

    def work(chunk: int) -> None:
        start = chunk * TOKENS_PER_CHUNK
        _keep_paths(logits_all, keep, met, reached, start, min(start + TOKENS_PER_CHUNK, tokens))

    run_chunks(work, -(-tokens // TOKENS_PER_CHUNK), threads)


def chunks_of(tokens: int, threads: int, numbers: int) -> list[tuple[int, int]]:
    """Starts and stops: one chunk for each thread, since tokens share rows only within a chunk.

    `numbers` are those of the rows that one token visits.

    Finer chunks even out cores of unequal speed, but cost more than that gains: with four chunks for two threads
    16,384 tokens took 0.49 us each, with two 0.45. A core that another process keeps busy slows the call to
    half its speed at worst.
    """
    chunks = min(threads, tokens, round(tokens * numbers / FEWEST_NUMBERS_PER_CHUNK))
    size = -(-tokens // max(1, chunks))
    return [(start, min(start + size, tokens)) for start in range(0, tokens, max(1, size))]


def _address(array: npt.NDArray[Any]) -> int:
    # `.ctypes.data` takes three times as long.
    address: int = array.__array_interface__["data"][0]
    return address


def _check(x: Floats, w_in: Floats, b_in: Floats, w_out: Floats) -> None:
    trees, nodes, hidden = w_in.shape
    if (nodes + 1) & nodes or not nodes:
        raise ValueError(f"w_in has {nodes} nodes a tree; a balanced tree has 2^(depth+1) - 1")
    if w_out.shape != w_in.shape or b_in.shape != (trees, nodes):
        raise ValueError(f"w_in {w_in.shape}, b_in {b_in.shape} and w_out {w_out.shape} do not fit together")
    if x.ndim != 2 or x.shape[1] != hidden:
        raise ValueError(f"x has shape {x.shape}; the weights take (tokens, {hidden})")
    for name, array in (("x", x), ("w_in", w_in), ("b_in", b_in), ("w_out", w_out)):
        if array.dtype != x.dtype or array.dtype not in (np.float32, np.float64):
            raise TypeError(f"{name} is {array.dtype}; all arrays must be float32, or all float64")
        if not array.flags.c_contiguous:
            raise ValueError(f"{name} is not contiguous")


def forward(
    x: Floats, w_in: Floats, b_in: Floats, w_out: Floats, threads: int = 1
) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """CMM of contiguous float32 or float64 arrays: x (tokens, H), w_in and w_out (P, N, H), b_in (P, N).

    Returns y (tokens, H), the logits on each token's path (tokens, P, D + 1), root first, and the leaf
    reached (tokens, P) as a node index. Raises ValueError or TypeError for arrays that do not fit.
    """
    _check(x, w_in, b_in, w_out)
    trees, nodes, hidden = w_in.shape
    tokens = x.shape[0]
    y = np.empty_like(x)
    logits = np.empty((tokens, trees, nodes.bit_length()), dtype=x.dtype)
    leaves = np.empty((tokens, trees), dtype=np.int64)
    addresses = tuple(_address(array) for array in (x, w_in, b_in, w_out, y, logits, leaves))
    forward_at(x.dtype.name, addresses, tokens, trees, nodes, hidden, threads)
    return y, logits, leaves


def backward(
    grad_y: Floats,
    x: Floats,
    w_in: Floats,
    w_out: Floats,
    logits: Floats,
    leaves: npt.NDArray[np.int64],
    threads: int = 1,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Gradients of `forward` from the gradient of y and what `forward` returned; shapes as there.

    Returns (grad_x, grad_w_in, grad_b_in, grad_w_out); rows of unvisited nodes are exact zeros.
    """
    trees, nodes, hidden = w_in.shape
    tokens = x.shape[0]
    b_in_shape = (trees, nodes)
    _check(x, w_in, np.empty(b_in_shape, dtype=x.dtype), w_out)
    if grad_y.shape != x.shape or grad_y.dtype != x.dtype or not grad_y.flags.c_contiguous:
        raise ValueError(f"grad_y {grad_y.shape} {grad_y.dtype} does not match x {x.shape} {x.dtype}")
    if logits.shape != (tokens, trees, nodes.bit_length()) or leaves.shape != (tokens, trees):
        raise ValueError(f"logits {logits.shape} and leaves {leaves.shape} are not those of x {x.shape}")
    if leaves.size and not (nodes // 2 <= leaves.min() and leaves.max() < nodes):
        raise ValueError("leaves holds an index that is no leaf of the tree")
    grad_x = np.empty_like(x)
    neurons = Neurons(logits, np.empty_like(logits), np.empty_like(logits))

    chunks = chunks_of(tokens, threads, trees * nodes.bit_length() * hidden)

    def per_token(chunk: int) -> None:
        token_gradients(grad_y, w_in, w_out, leaves, neurons, grad_x, *chunks[chunk])

    run_chunks(per_token, len(chunks), threads)
    grad_w_in, grad_w_out = np.empty_like(w_in), np.empty_like(w_out)
    grad_b_in = np.zeros(b_in_shape, dtype=x.dtype)
    orders = [order_by_leaf(leaves, p, 0, tokens, nodes) for p in range(trees)]
    columns = -(-min(MOST_COLUMNS_PER_CHUNK, -(-hidden // threads)) // LANES) * LANES
    slices = -(-hidden // columns)

    def per_columns(chunk: int) -> None:
        p, column_chunk = divmod(chunk, slices)
        start = column_chunk * columns
        stop = min(start + columns, hidden)
        gradients = Gradients(grad_w_in[p], grad_b_in[p], grad_w_out[p])
        add_weight_gradients(grad_y, x, leaves, orders[p], neurons, gradients, p, start, stop)

    run_chunks(per_columns, trees * slices, threads)
    return grad_x, grad_w_in, grad_b_in, grad_w_out
