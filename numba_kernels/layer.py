"""Forward CMM of a chunk of tokens: route, activate, add up the rows of each path.

    logit = x . w_in[p, node] + b_in[p, node];  y += gelu(logit) * w_out[p, node];  a tie goes left

Everything comes as an address, since handing an array to a compiled kernel costs as much as routing a token.

Adding up follows the order by leaf; y too large for the caches is written past them, which saves reading it first.

Letters: t tokens, p trees, n nodes of a tree, d levels (depth + 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined,unused-ignore]

from .activation import gelu_into
from .adding import add_paths, round_rows
from .compilation import kernel
from .descent import route, routing_space
from .records import Met, Output, Paths, Tokens, Tree, Trees
from .vectors import fence, pointer_to

__all__ = ["forward_chunk"]

# y of one chunk from which on it is written past the caches.
STREAMED_BYTES = 1 << 21
# How much of a row that is new to the next token is asked for a token ahead: all of it, unless it is long. This
# takes a fifth off the adding up at batch 1,024.
AHEAD_BYTES = 4096
# Tokens that go through all trees of a layer together: their sums, and their x beside them, stay in a second-level
# cache of 2 MB, and they are many enough to share what is read of the weights, all of which come anew for each
# block; more where trees are deep. Four times as many take up to twice as long a token where the third level is slow.
BLOCK_BYTES = 3 << 18
ROWS_PER_SWEEP = 12


@kernel
def forward_chunk(
    like: Any, like_logits: Any, addresses: Any, start: int, stop: int, trees: int, nodes: int, hidden: int
) -> None:
    """Tokens `start` to `stop` of x (tokens, H) through all trees: their rows of y, logits and leaves.

    `addresses` are those of x, w_in, b_in, w_out, y, logits and leaves. x, w_in, w_out and y lie in the storage of
    `like`, biases and logits in that of `like_logits`. The last two may be 0: they are then not kept.
    """
    x_at, w_in_at, b_in_at, w_out_at, y_at, logits_at, leaves_at = addresses
    levels = 0
    while (1 << levels) <= nodes:
        levels += 1
    row = hidden * like.itemsize
    tree = nodes * row
    biases_pn = carray(pointer_to(b_in_at, like_logits), (trees, nodes))
    # Shallow trees are taken several together, so that y is read and written once for about twelve rows. More are
    # slower: the order by the leaves of one tree is no order for the others.
    together = min(trees, max(1, ROWS_PER_SWEEP // levels))
    block = stop - start
    if trees > 1:
        blocks = -(-block // max(BLOCK_BYTES // (hidden * like_logits.itemsize), 2 * nodes))
        block = -(-block // blocks)
    # A sum that is added to is kept in float32 where y is narrower.
    narrow = like.itemsize == 2 and together < trees
    sums = np.empty((block if narrow else 0, hidden), like_logits.dtype)
    stream = trees == 1 and (stop - start) * row >= STREAMED_BYTES and row % 64 == 0 and y_at % 64 == 0
    size = min(block, stop - start)
    logits_k = np.empty(size * together * levels, like_logits.dtype)
    activations_k = np.empty(size * together * levels, like_logits.dtype)
    leaves_pt = np.empty((together, size), np.int64)
    order_t = np.empty(size, np.int64)
    space = routing_space(size, levels, like_logits)
    for first in range(start, stop, block):
        tokens = min(block, stop - first)
        order = order_t[:tokens]
        for group in range(0, trees, together):
            count = min(together, trees - group)
            width = count * levels
            for t in range(tokens):
                order[t] = t
            for p in range(count):
                # Each tree orders the tokens by its leaves without undoing more of the order before than it must.
                route(
                    Tree(like, w_in_at + (group + p) * tree, biases_pn[group + p], hidden, row, levels),
                    Tokens(x_at + first * row, order, group + p == 0),
                    Met(logits_k[p * levels :], width, leaves_pt[p, :tokens]),
                    space,
                )
            gelu_into(logits_k[: tokens * width], activations_k[: tokens * width])
            rows = Trees(like, w_out_at + group * tree, tree, row, hidden, levels)
            activations_tk = activations_k[: tokens * width].reshape(tokens, width)
            paths = Paths(activations_tk, leaves_pt[:count], order)
            if narrow:
                output = Output(like_logits, sums.ctypes.data, hidden * like_logits.itemsize)
                add_paths(rows, paths, output, group == 0, stream, AHEAD_BYTES)
            else:
                add_paths(rows, paths, Output(like, y_at + first * row, row), group == 0, stream, AHEAD_BYTES)
            if logits_at:
                kept = carray(pointer_to(logits_at, like_logits), (stop, trees * levels))
                for t in range(tokens):
                    for k in range(width):
                        kept[first + t, group * levels + k] = logits_k[t * width + k]
            if leaves_at:
                kept_leaves = carray(pointer_to(leaves_at, order_t), (stop, trees))
                for t in range(tokens):
                    for p in range(count):
                        kept_leaves[first + t, group + p] = leaves_pt[p, t]
        if narrow:
            round_rows(sums, Output(like, y_at + first * row, row), tokens)
    if stream:
        fence()
