"""How tokens spread over the leaves of trees: the arithmetic of tree health, on counts of tokens by leaf.

All figures of a finite sample fall short of perfect use even where every leaf is equally likely, so what uniform
use would give for the same number of tokens stands beside them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Counts",
    "dead_subtrees",
    "entropy_bits",
    "expected_distinct",
    "expected_entropy_bits",
    "leaf_counts",
    "right_shares",
    "tree_health",
]

Counts = npt.NDArray[np.integer[Any]]

SIMULATIONS = 8


def leaf_counts(leaves: npt.NDArray[np.int64], depth: int) -> npt.NDArray[np.int64]:
    """Leaves as node indices (tokens, P) -> tokens by leaf (P, 2^depth), from left to right."""
    total = 1 << depth
    counts = [np.bincount(column - (total - 1), minlength=total) for column in leaves.T]
    return np.stack(counts).astype(np.int64)


def expected_distinct(leaves: int, tokens: int) -> float:
    """Distinct leaves that `tokens` independent tokens reach if every leaf is equally likely."""
    return leaves * -math.expm1(tokens * math.log1p(-1.0 / leaves)) if leaves > 1 else float(tokens > 0)


def entropy_bits(counts: Counts) -> float:
    """Entropy of the observed use of one tree, in bits; zeros in `counts` count nothing."""
    share = counts[counts > 0] / counts.sum()
    return float(max(0.0, -(share * np.log2(share)).sum()))


@functools.lru_cache(maxsize=64)
def expected_entropy_bits(leaves: int, tokens: int, seed: int = 0) -> float:
    """The mean entropy of a sample of `tokens` if every leaf is equally likely, simulated with `seed`."""
    generator = np.random.default_rng(seed)
    chance = np.full(leaves, 1.0 / leaves)
    return float(np.mean([entropy_bits(generator.multinomial(tokens, chance)) for _ in range(SIMULATIONS)]))


def right_shares(counts: Counts) -> list[float]:
    """At each level from the root: the share of the tokens (over all trees) that went right; counts (P, leaves)."""
    shares, below = [], counts
    while below.shape[1] > 1:
        shares.append(float(below[:, 1::2].sum() / below.sum()))  # from the left, every second child is a right one
        below = _parents(below)
    return shares[::-1]


def dead_subtrees(counts: Counts) -> list[float]:
    """Subtrees that no token entered though one was at their parent, by the level of their root from 1 to D.

    counts (P, leaves); means over the trees. At the last level stand single leaves.
    """
    found, below = [], counts
    while below.shape[1] > 1:
        parents = _parents(below)
        dead = (below == 0) & (np.repeat(parents, 2, axis=1) > 0)
        found.append(float(dead.sum() / len(counts)))
        below = parents
    return found[::-1]


def tree_health(counts: Counts) -> dict[str, Any]:
    """What is known of the trees of a layer from the tokens by leaf (P, leaves); figures are means over the trees.

    `used_leaves`: share of the leaves that a token reached; `entropy_bits` of leaf use, at most
    `maximum_entropy_bits`; both beside what uniform use would give (`expected_...`). `dead_subtrees`: those of two
    leaves or more, and `largest_dead_subtree` the leaves of the largest one, 0 if every leaf was reached.
    """
    leaves, tokens = counts.shape[1], int(counts[0].sum())
    depth = leaves.bit_length() - 1
    by_level = dead_subtrees(counts)
    largest = next((leaves >> level for level, dead in enumerate(by_level, 1) if dead), 0)
    return {
        "tokens": tokens,
        "used_leaves": float((counts > 0).mean()),
        "expected_used_leaves": expected_distinct(leaves, tokens) / leaves,
        "entropy_bits": float(np.mean([entropy_bits(tree) for tree in counts])),
        "expected_entropy_bits": expected_entropy_bits(leaves, tokens),
        "maximum_entropy_bits": float(depth),
        "dead_subtrees": float(sum(by_level[:-1])),
        "largest_dead_subtree": largest,
        "dead_subtrees_by_level": by_level,
        "right_share_by_level": right_shares(counts),
    }


def _parents(counts: Counts) -> Counts:
    """Tokens at the nodes one level above."""
    above: Counts = counts[:, 0::2] + counts[:, 1::2]
    return above
