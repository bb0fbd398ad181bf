"""Walking tokens down trees each by itself, as though no row served two of them: eight walk side by side.

A walker is one token in one tree. Four of them share an instruction stream with a row each; with two such sets by
turns, one set's reads hide the waiting of the other. More sets gained nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compilation import kernel
from .products import dots_1x1, dots_pairwise_4
from .records import Tree

__all__ = ["LEAF_PLACE", "LOGIT_PLACE", "NODE", "ROOT", "TOKEN", "WALKERS", "walk"]

WALKERS = 8
# What is known of a walker: the address of its x, its tree's first node among all trees' nodes, the node it stands
# at, where its next logit goes, and where its leaf.
TOKEN, ROOT, NODE, LOGIT_PLACE, LEAF_PLACE = range(5)


@kernel
def walk(tree: Tree, walkers: Any, count: int, levels: int, logits: Any, leaves: Any, out: Any) -> None:
    """`walkers` (5, 8), of which there are `count`, go `levels` levels down, the last of them being a leaf's.

    `tree` is all that the walkers' roots count in; `logits` and `leaves` are flat, `out` is room for 8 logits.
    """
    like, w_at, biases, hidden, row, _ = tree
    out_at = out.ctypes.data
    if count == 1:
        root = walkers[ROOT, 0]
        node = walkers[NODE, 0]
        x = walkers[TOKEN, 0]
        for d in range(levels):
            dots_1x1(like, (x,), (w_at + (root + node) * row,), hidden, out_at)
            logit = out[0] + biases[root + node]
            logits[walkers[LOGIT_PLACE, 0] + d] = logit
            leaves[walkers[LEAF_PLACE, 0]] = node
            node = 2 * node + 1 + np.int64(logit > 0)
        return
    # Walkers that are missing do what the last one does.
    for i in range(count, WALKERS):
        for what in range(5):
            walkers[what, i] = walkers[what, count - 1]
    for d in range(levels):
        for i in range(0, WALKERS if count > 4 else 4, 4):
            x = walkers[TOKEN]
            root = walkers[ROOT]
            node = walkers[NODE]
            dots_pairwise_4(
                like,
                (x[i], x[i + 1], x[i + 2], x[i + 3]),
                (
                    w_at + (root[i] + node[i]) * row,
                    w_at + (root[i + 1] + node[i + 1]) * row,
                    w_at + (root[i + 2] + node[i + 2]) * row,
                    w_at + (root[i + 3] + node[i + 3]) * row,
                ),
                hidden,
                out_at,
            )
            for j in range(4):
                logit = out[j] + biases[root[i + j] + node[i + j]]
                logits[walkers[LOGIT_PLACE, i + j] + d] = logit
                leaves[walkers[LEAF_PLACE, i + j]] = node[i + j]
                node[i + j] = 2 * node[i + j] + 1 + np.int64(logit > 0)
