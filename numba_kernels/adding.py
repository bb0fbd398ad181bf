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
from .vectors import prefetch

__all__ = ["add_paths", "round_rows"]


@kernel
def add_paths(
    like: Any, like_y: Any, w_at: int, tree: int, hidden: int, row: int, tokens: int, levels: int,
    activations_tk: Any, leaves_pt: Any, order_t: Any, y_at: int, y_row: int, first: bool, stream: bool, ahead: int,
) -> None:  # fmt: skip
    """y of each token, in the order given, (+)= the rows of its paths weighted by its activations.

    The trees at `w_at`, `tree` bytes apart, are those of `leaves_pt`; k counts their levels, tree by tree. The first
    `ahead` bytes of each row that is new to the next token are asked for a token ahead.
    """
    trees = leaves_pt.shape[0]
    count = trees * levels
    rows = np.empty(count, np.int64)
    following = np.empty(count, np.int64)
    rows_at = rows.ctypes.data
    activations_at = activations_tk.ctypes.data
    item = activations_tk.itemsize
    ahead = min(row, ahead)
    for i in range(tokens + 1):
        if i < tokens:
            t = order_t[i]
            for p in range(trees):
                node = leaves_pt[p, t]
                for k in range((p + 1) * levels - 1, p * levels - 1, -1):
                    following[k] = w_at + p * tree + node * row
                    node = (node - 1) >> 1
                    if i > 0 and following[k] != rows[k]:
                        for offset in range(0, ahead, 64):
                            prefetch(following[k] + offset)
        if i > 0:
            t = order_t[i - 1]
            weights = activations_at + t * count * item
            weighted_sum(like, like_y, rows_at, weights, count, hidden, y_at + t * y_row, first, stream)
        for k in range(count):
            rows[k] = following[k]


@kernel
def round_rows(like_y: Any, sums: Any, y_at: int, y_row: int, tokens: int, hidden: int) -> None:
    """Write the sums as y's narrower type."""
    one = np.ones(1, sums.dtype)
    address = np.empty(1, np.int64)
    for t in range(tokens):
        address[0] = sums[t].ctypes.data
        weighted_sum(
            sums, like_y, address.ctypes.data, one.ctypes.data, 1, hidden, y_at + t * y_row, True, False
        )  # fmt: skip
