"""Forward CMM with weights of 8 bits (see `byte_products` for how rows lie).

    y = residual + bias + sum of gelu(logit) * w_out[p, node],  logit = x . w_in[p, node] + b_in[p, node]

A token's numbers and its paths' weights (activation * scale of the row) get 15 bits and a scale of their own, so a
token's result does not depend on those that come with it.

A row is so short that sorting tokens by node costs more than reading rows again: tokens walk four by four, or one in
four trees, which takes half the time. Only the rows of one tree's w_out are worth an order by leaf.

Letters: t tokens, p trees, n nodes of a tree, k levels of all trees, tree by tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined,unused-ignore]

from .activation import gelu_into
from .byte_products import (
    HIGH,
    add_byte_rows,
    byte_dots_4x1,
    byte_dots_pairwise_4,
    largest_size,
    split_row,
)  # fmt: skip
from .byte_rows import LINE
from .compilation import kernel
from .records import ByteTrees, Walked
from .vectors import pointer_to, prefetch

__all__ = ["forward_bytes"]

# Bytes of the tokens' rows that are made together, and ordered by leaf, where trees are few.
BLOCK_BYTES = 1 << 20
# Tokens that walk down one tree by turns, and those made together where trees are many.
TOGETHER = 16
# A row none of whose numbers is larger counts as zeros: its factor would overflow.
SMALLEST = np.float32(1e-30)
# What is known of a node: the scale of its row of w_in, its bias, the scale of its row of w_out.
SCALE_IN, BIAS, SCALE_OUT, KNOWN = range(4)


@kernel
def _split_rows(like: Any, x_at: int, rows_at: int, scales_t: Any, corrections_t: Any, hidden: int, most: int) -> None:
    """The rows of x (tokens, hidden): numbers of up to +-most, their scales, and 128 times their sums."""
    width = (hidden + LINE - 1) // LINE * LINE
    x_row = hidden * like.itemsize
    for t in range(scales_t.size):
        largest = largest_size(like, x_at + t * x_row, hidden)
        finite = largest < np.inf
        factor = np.float32(most) / largest if finite and largest > SMALLEST else np.float32(0)
        total = split_row(like, x_at + t * x_row, rows_at + 2 * t * width, hidden, width, factor)
        scales_t[t] = largest * np.float32(1 / most) if finite else np.float32(np.nan)
        corrections_t[t] = total * np.int32(HIGH)


@kernel
def _meet(trees: ByteTrees, walked: Walked, t: int, p: int, d: int, node: int, total: Any, scale: Any) -> int:
    """A token's logit at a node of level `d`, from its sum of products; returns the child it goes to."""
    known = trees.known_nk
    place = p * trees.nodes + node
    logit = np.float32(total) * (scale * known[place, SCALE_IN]) + known[place, BIAS]
    k = p * trees.levels + d
    walked.logits_tk[t, k] = logit
    walked.scales_tk[t, k] = known[place, SCALE_OUT]
    walked.rows_tk[t, k] = trees.w_out_at + place * trees.width
    return int(2 * node + 1 + (logit > 0))


@kernel
def _walk_trees(
    trees: ByteTrees, walked: Walked, x_at: int, t: int, scale: Any, correction: Any, node_p: Any, out: Any
) -> None:
    """One token down all trees, four side by side."""
    w_at, width, nodes = trees.w_in_at, trees.width, trees.nodes
    count = node_p.size
    out_at = out.ctypes.data
    for p in range(count):
        node_p[p] = 0
    for d in range(trees.levels):
        for first in range(0, count, 4):
            # Trees that are missing are the last one.
            b, c, e = min(first + 1, count - 1), min(first + 2, count - 1), min(first + 3, count - 1)
            rows = (
                w_at + (first * nodes + node_p[first]) * width,
                w_at + (b * nodes + node_p[b]) * width,
                w_at + (c * nodes + node_p[c]) * width,
                w_at + (e * nodes + node_p[e]) * width,
            )
            byte_dots_4x1((x_at,), rows, width, out_at)
            for p in range(first, min(first + 4, count)):
                node_p[p] = _meet(trees, walked, t, p, d, node_p[p], out[p - first] - correction, scale)


@kernel
def _walk_tokens(
    trees: ByteTrees, walked: Walked, x_at: int, p: int, scales_t: Any, corrections_t: Any, leaves_t: Any, out: Any
) -> None:
    """Some tokens down one tree, four side by side; `leaves_t` receives the leaf of each, counted from 0."""
    w_at, width = trees.w_in_at + p * trees.nodes * trees.width, trees.width
    count = scales_t.size
    out_at = out.ctypes.data
    for t in range(count):
        leaves_t[t] = 0
    for d in range(trees.levels):
        for first in range(0, count, 4):
            # Tokens that are missing are the last one.
            b, c, e = min(first + 1, count - 1), min(first + 2, count - 1), min(first + 3, count - 1)
            x = (x_at + 2 * first * width, x_at + 2 * b * width, x_at + 2 * c * width, x_at + 2 * e * width)
            rows = (
                w_at + leaves_t[first] * width,
                w_at + leaves_t[b] * width,
                w_at + leaves_t[c] * width,
                w_at + leaves_t[e] * width,
            )
            byte_dots_pairwise_4(x, rows, width, out_at)
            for t in range(first, min(first + 4, count)):
                node = leaves_t[t]
                leaves_t[t] = _meet(trees, walked, t, p, d, node, out[t - first] - corrections_t[t], scales_t[t])
    for t in range(count):
        leaves_t[t] -= trees.nodes


@kernel
def _sort_by_leaf(leaves_t: Any, order_t: Any, ends: Any) -> None:
    """The tokens in the order of their leaves."""
    ends[:] = 0
    for t in range(order_t.size):
        ends[leaves_t[t] >> 1] += 1
    start = 0
    for leaf in range(ends.size):
        start += ends[leaf]
        ends[leaf] = start
    for t in range(order_t.size - 1, -1, -1):
        leaf = leaves_t[t] >> 1
        ends[leaf] -= 1
        order_t[ends[leaf]] = t


@kernel
def _add_paths(
    like: Any,
    walked: Walked,
    order_t: Any,
    hidden: int,
    most: int,
    y_at: int,
    residual_at: int,
    bias_at: int,
    ahead: int,
) -> None:
    """y of each token, in the order given: the residual, the bias, and the rows of its paths, weighted.

    The first `ahead` bytes of a row that is new to the next token are asked for a token ahead.
    """
    y_row = hidden * like.itemsize
    tokens, count = walked.logits_tk.shape
    groups = (count + 3) // 4
    rows = np.empty(4 * groups, np.int64)
    weights = np.empty(count, np.float32)
    sizes = weights.view(np.int32)
    bytes_ik = np.zeros((2, 4 * groups), np.int8)
    highs_at = bytes_ik.ctypes.data
    largest_i = np.empty(1, np.int32)
    largest_float = largest_i.view(np.float32)
    for i in range(tokens):
        t = order_t[i]
        if ahead and i + 1 < tokens:
            following = order_t[i + 1]
            for k in range(count):
                if walked.rows_tk[following, k] != walked.rows_tk[t, k]:
                    for offset in range(0, ahead, 64):
                        prefetch(walked.rows_tk[following, k] + offset)
        gelu_into(walked.logits_tk[t], weights)
        for k in range(count):
            weights[k] *= walked.scales_tk[t, k]
        most_bits = np.int32(0)
        for k in range(count):  # without their signs, numbers are ordered as their bits are
            most_bits = max(most_bits, sizes[k] & np.int32(0x7FFFFFFF))
        largest_i[0] = most_bits
        largest = largest_float[0]
        finite = largest < np.inf
        factor = np.float32(most) / largest if finite and largest > SMALLEST else np.float32(0)
        scale = largest / np.float32(most) if finite else np.float32(np.nan)
        total = np.int32(0)
        for k in range(count):
            number = np.int32(weights[k] * factor + np.float32(32768.5)) - np.int32(32768)
            high = (number + np.int32(64)) >> np.int32(7)
            bytes_ik[0, k] = np.int8(high)
            bytes_ik[1, k] = np.int8(number - (high << np.int32(7)))
            total += number
        for k in range(4 * groups):
            rows[k] = walked.rows_tk[t, min(k, count - 1)]
        add_byte_rows(
            like, rows.ctypes.data, highs_at, highs_at + 4 * groups, groups, hidden, scale, np.int32(total * HIGH),
            y_at + t * y_row, residual_at + t * y_row if residual_at else 0, bias_at,
        )  # fmt: skip


@kernel
def forward_bytes(
    like: Any, like_numbers: Any, addresses: Any, start: int, stop: int,
    trees: int, nodes: int, hidden: int, most_x: int, most_weight: int,
) -> None:  # fmt: skip
    """Tokens `start` to `stop` of x (tokens, H) through all trees: their rows of y.

    `addresses` are those of x, the nodes' scales and biases, w_in, w_out, y, the residual and the bias; the last
    two may be 0. x, y and the residual lie in the storage of `like` (bfloat16), w_in and w_out are rows of bytes.
    """
    x_at, known_at, w_in_at, w_out_at, y_at, residual_at, bias_at = addresses
    levels = 0
    while (1 << levels) <= nodes:
        levels += 1
    width = (hidden + LINE - 1) // LINE * LINE
    number = trees * levels
    known_nk = carray(pointer_to(known_at, like_numbers), (trees * nodes, KNOWN))
    walks = ByteTrees(known_nk, w_in_at, w_out_at, width, nodes, levels)
    side_by_side = trees >= 4
    size = TOGETHER
    if not side_by_side:
        blocks = max(1, -(-(stop - start) * 2 * width // BLOCK_BYTES))
        size = -(-(stop - start) // blocks)
    memory = np.empty(size * 2 * width + LINE, np.uint8)
    all_scales, all_corrections = np.empty(size, np.float32), np.empty(size, np.int32)
    logits_tk, scales_tk = np.empty((size, number), np.float32), np.empty((size, number), np.float32)
    rows_tk = np.empty((size, number), np.int64)
    order, leaves = np.arange(size), np.empty(size, np.int64)
    node_p, out = np.empty(trees, np.int64), np.empty(4, np.int32)
    ends = np.empty(nodes + 1, np.int64)
    y_row = hidden * like.itemsize
    for first in range(start, stop, size):
        tokens = min(size, stop - first)
        # Asked for in the loop: behind its last use an array is freed, whatever its address is still needed for.
        tokens_at = (memory.ctypes.data + LINE - 1) // LINE * LINE
        scales_t, corrections_t = all_scales[:tokens], all_corrections[:tokens]
        _split_rows(like, x_at + first * y_row, tokens_at, scales_t, corrections_t, hidden, most_x)
        walked = Walked(logits_tk[:tokens], scales_tk[:tokens], rows_tk[:tokens])
        if side_by_side:
            for t in range(tokens):
                _walk_trees(walks, walked, tokens_at + 2 * t * width, t, scales_t[t], corrections_t[t], node_p, out)
        else:
            for p in range(trees):
                for low in range(0, tokens, TOGETHER):
                    high = min(low + TOGETHER, tokens)
                    some = Walked(logits_tk[low:high], scales_tk[low:high], rows_tk[low:high])
                    _walk_tokens(
                        walks, some, tokens_at + 2 * low * width, p, scales_t[low:high], corrections_t[low:high],
                        leaves[low:high], out,
                    )  # fmt: skip
                if p == 0 and tokens > TOGETHER:
                    _sort_by_leaf(leaves[:tokens], order[:tokens], ends)
        _add_paths(
            like, walked, order[:tokens], hidden, most_weight, y_at + first * y_row,
            residual_at + first * y_row if residual_at else 0, bias_at, 0 if side_by_side else width,
        )  # fmt: skip
