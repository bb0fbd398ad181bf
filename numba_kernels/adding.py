"""Adding up the rows of w_out on the tokens' paths, which makes y.

A piece of y stays in registers while all rows of a path pass: 12 rows of 768 take 0.1 us from the first-level cache.
In the order by leaf neighbours share most of their path, so of a token's 12 rows two or three are new to that cache.

Letters: t tokens, p trees, k levels of all trees, tree by tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compilation import kernel
from .products import weighted_sum
from .records import Output, Paths, Rows, Trees
from .vectors import prefetch

__all__ = ["add_paths", "round_rows"]


@kernel
def add_paths(trees: Trees, paths: Paths, output: Output, first: bool, stream: bool, ahead: int) -> None:
    """y of each token, in the order given, (+)= the rows of its paths weighted by its activations.

    The first `ahead` bytes of each row that is new to the next token are asked for a token ahead.
    """
    like, w_at, tree, row, hidden, levels = trees
    activations_tk, leaves_pt, order_t = paths
    like_y, y_at, y_row = output
    tokens = order_t.size
    count = leaves_pt.shape[0] * levels
    rows = np.empty(count, np.int64)
    following = np.empty(count, np.int64)
    rows_at = rows.ctypes.data
    activations_at = activations_tk.ctypes.data
    item = activations_tk.itemsize
    ahead = min(row, ahead)
    for i in range(tokens + 1):
        if i < tokens:
            t = order_t[i]
            for p in range(leaves_pt.shape[0]):
                node = leaves_pt[p, t]
                for k in range((p + 1) * levels - 1, p * levels - 1, -1):
                    following[k] = w_at + p * tree + node * row
                    node = (node - 1) >> 1
                    if i > 0 and following[k] != rows[k]:
                        for offset in range(0, ahead, 64):
                            prefetch(following[k] + offset)
        if i > 0:
            t = order_t[i - 1]
            weighted = Rows(rows_at, activations_at + t * count * item, count, hidden)
            weighted_sum(like, like_y, weighted, y_at + t * y_row, first, stream)
        for k in range(count):
            rows[k] = following[k]


@kernel
def round_rows(sums: Any, output: Output, tokens: int) -> None:
    """Write the sums as y's narrower type."""
    like_y, y_at, y_row = output
    one = np.ones(1, sums.dtype)
    address = np.empty(1, np.int64)
    # Numba compiles a kernel anew for each constant it is given.
    count = np.int64(1)
    for t in range(tokens):
        address[0] = sums[t].ctypes.data
        row = Rows(address.ctypes.data, one.ctypes.data, count, sums.shape[1])
        weighted_sum(sums, like_y, row, y_at + t * y_row, True, False)
