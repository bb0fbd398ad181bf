"""Balanced binary trees of neurons: counts, numbering, the tie rule, and the plain NumPy descent.

Nodes are numbered level by level from the root 0; the children of n are 2n + 1 (left) and 2n + 2 (right).
`depth` counts edges from root to leaf, so a tree has 2^(depth + 1) - 1 nodes and a token visits depth + 1.
Source: Belcak & Wattenhofer 2023, "Exponentially Faster Language Modelling", section 2 and algorithm 1.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ufbert.errors import ConfigError
from ufbert.system.resources import physical_memory

if TYPE_CHECKING:  # settings check shapes, and `--help` shows settings without waiting for NumPy
    import numpy as np
    import numpy.typing as npt

__all__ = ["check_shape", "descend", "leaf_count", "node_count", "path_to", "visited_count"]

# Node indices are 64-bit everywhere, but no machine holds a tree deeper than this: depth 31 at
# hidden size 1 is 34 GB in float32.
MAXIMUM_DEPTH = 31


def node_count(depth: int) -> int:
    """Nodes (neurons) of one tree: 2^(depth + 1) - 1."""
    return (1 << (depth + 1)) - 1


def leaf_count(depth: int) -> int:
    """Leaves of one tree, which is also its number of distinct paths: 2^depth."""
    return 1 << depth


def visited_count(depth: int) -> int:
    """Neurons that one token uses in one tree: depth + 1."""
    return depth + 1


def path_to(leaf: int, depth: int) -> list[int]:
    """The nodes from the root to `leaf`, given as a node index of the last level; `depth + 1` entries."""
    path = [leaf]
    for _ in range(depth):
        path.append((path[-1] - 1) // 2)
    return path[::-1]


def check_shape(hidden_size: int, trees: int, depth: int) -> None:
    """Raise `ConfigError` unless the layer exists and its float32 weights fit into this machine's memory."""
    for name, value, least in (("hidden_size", hidden_size, 1), ("trees", trees, 1), ("depth", depth, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name} must be a whole number of at least {least}, not {value!r}")
    if depth > MAXIMUM_DEPTH:
        raise ConfigError(
            f"depth {depth} means {trees} x {node_count(depth):,} neurons, more than any machine holds; "
            f"the largest depth is {MAXIMUM_DEPTH}"
        )
    needed = 4 * trees * node_count(depth) * (2 * hidden_size + 1)
    available = physical_memory()
    if available is not None and needed > available:
        raise ConfigError(
            f"depth {depth} with {trees} trees and hidden_size {hidden_size} needs {needed / 2**30:,.0f} GiB "
            f"for one layer's weights, this machine has {available / 2**30:,.0f} GiB; choose a smaller depth"
        )


def descend(
    x: npt.NDArray[np.floating],
    w_in: npt.NDArray[np.floating],
    b_in: npt.NDArray[np.floating],
    w_out: npt.NDArray[np.floating],
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """The definition of CMM, one token and one node at a time, in float64: slow and plain, for tests.

    Shapes: x (tokens, H), w_in and w_out (P, N, H), b_in (P, N). Returns y (tokens, H), the logits met on
    the way (tokens, P, D + 1), and the leaf reached in each tree, as a node index (tokens, P).
    """
    import numpy as np

    tokens, hidden = x.shape
    trees, nodes, _ = w_in.shape
    depth = nodes.bit_length() - 1
    y = np.zeros((tokens, hidden))
    logits = np.zeros((tokens, trees, depth + 1))
    leaves = np.zeros((tokens, trees), dtype=np.int64)
    for t in range(tokens):
        for p in range(trees):
            node = 0
            for level in range(depth + 1):
                logit = float(np.dot(x[t].astype(np.float64), w_in[p, node]) + b_in[p, node])
                logits[t, p, level] = logit
                y[t] += 0.5 * logit * (1.0 + math.erf(logit / math.sqrt(2.0))) * w_out[p, node]
                leaves[t, p] = node
                node = 2 * node + 1 + (logit > 0)  # a tie, and NaN, goes left
    return y, logits, leaves
