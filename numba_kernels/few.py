"""Forward CMM of a few tokens, which share too little for the order by leaf to pay.

All (tree, token) pairs walk in eights, neighbours in the same tree, whose upper rows they share. One token alone
in one tree takes 2.8 us with weights from the third-level cache and memory, and 4.1 as a chunk of one.

Letters: t tokens, p trees, k levels of all trees, tree by tree.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined,unused-ignore]

from .activation import gelu_into
from .adding import add_paths
from .compilation import kernel
from .records import Output, Paths, Tree, Trees
from .vectors import pointer_to
from .walk import LEAF_PLACE, LOGIT_PLACE, NODE, ROOT, TOKEN, WALKERS, walk

__all__ = ["MOST_TOKENS", "forward_few"]

# From here on `forward_chunk` is as fast.
MOST_TOKENS = 32


@kernel
def forward_few(
    like: Any, like_logits: Any, addresses: Any, start: int, stop: int, trees: int, nodes: int, hidden: int
) -> None:
    """As `layer.forward_chunk`, faster for up to `MOST_TOKENS` tokens."""
    x_at, w_in_at, b_in_at, w_out_at, y_at, logits_at, leaves_at = addresses
    tokens = stop - start
    levels = 0
    while (1 << levels) <= nodes:
        levels += 1
    row = hidden * like.itemsize
    width = trees * levels
    biases = carray(pointer_to(b_in_at, like_logits), trees * nodes)
    numbers = np.empty(2 * tokens * width + WALKERS, like_logits.dtype)
    logits = numbers[: tokens * width]
    activations = numbers[tokens * width : 2 * tokens * width]
    out = numbers[2 * tokens * width :]
    places = np.empty(tokens * trees + tokens + 5 * WALKERS, np.int64)
    leaves = places[: tokens * trees]
    order_t = places[tokens * trees : tokens * trees + tokens]
    walkers = places[tokens * trees + tokens :].reshape(5, WALKERS)
    tree = Tree(like, w_in_at, biases, hidden, row, levels)
    for first in range(0, tokens * trees, WALKERS):
        count = min(WALKERS, tokens * trees - first)
        for i in range(count):
            p = (first + i) // tokens
            t = first + i - p * tokens
            walkers[TOKEN, i] = x_at + (start + t) * row
            walkers[ROOT, i] = p * nodes
            walkers[NODE, i] = 0
            walkers[LOGIT_PLACE, i] = t * width + p * levels
            walkers[LEAF_PLACE, i] = first + i
        walk(tree, walkers, count, levels, logits, leaves, out)
    gelu_into(logits, activations)
    for t in range(tokens):
        order_t[t] = t
    leaves_pt = leaves.reshape(trees, tokens)
    add_paths(
        Trees(like, w_out_at, nodes * row, row, hidden, levels),
        Paths(activations.reshape(tokens, width), leaves_pt, order_t),
        Output(like, y_at + start * row, row),
        True, False, 0,
    )  # fmt: skip
    if logits_at:
        kept = carray(pointer_to(logits_at, like_logits), stop * width)
        for i in range(tokens * width):
            kept[start * width + i] = logits[i]
    if leaves_at:
        kept_leaves = carray(pointer_to(leaves_at, places), (stop, trees))
        for t in range(tokens):
            for p in range(trees):
                kept_leaves[start + t, p] = leaves_pt[p, t]
