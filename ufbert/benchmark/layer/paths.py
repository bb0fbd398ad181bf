"""How the timed inputs spread over the trees, so that nobody is fooled by a benchmark that walks one path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ufbert.cmm.leaf_use import (
    Counts,
    entropy_bits,
    expected_distinct,
    expected_entropy_bits,
    leaf_counts,
    right_shares,
)

__all__ = ["leaf_statistics", "path_statistics"]


def leaf_statistics(counts: Counts, seed: int = 0) -> dict[str, Any]:
    """The `paths` of the JSON file but for its batches, from the tokens by leaf (P, leaves).

    Figures of several trees are their means. The entropy of a finite sample falls short of log2(leaves) even
    for perfectly uniform use, so its expectation under uniform use, simulated with `seed`, stands beside it.
    """
    leaves, tokens = counts.shape[1], int(counts[0].sum())
    return {
        "tokens": tokens,
        "leaves_per_tree": leaves,
        "distinct_leaves": float((counts > 0).sum(1).mean()),
        "expected_distinct_leaves": expected_distinct(leaves, tokens),
        "entropy_bits": float(np.mean([entropy_bits(tree) for tree in counts])),
        "expected_entropy_bits": expected_entropy_bits(leaves, tokens, seed),
        "maximum_entropy_bits": float(leaves.bit_length() - 1),
        "largest_leaf_share": float(counts.max(1).mean() / tokens),
        "right_share_by_level": right_shares(counts),
    }


def path_statistics(leaves: npt.NDArray[np.int64], depth: int, batches: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """`leaf_statistics`, and the distinct leaves of batches, from the leaf of every token in each tree: (tokens, P)."""
    counts = leaf_counts(leaves, depth)
    return {
        **leaf_statistics(counts, seed),
        "batches": [
            {
                "batch": batch,
                "distinct_leaves": _distinct_in_batches(leaves, batch),
                "expected_distinct_leaves": expected_distinct(counts.shape[1], batch),
            }
            for batch in batches
            if batch <= len(leaves)
        ],
    }


def _distinct_in_batches(leaves: npt.NDArray[np.int64], batch: int) -> float:
    """Mean over the batches of the pool, as they are timed, and over the trees."""
    whole = leaves[: len(leaves) // batch * batch]
    parts = whole.reshape(-1, batch, leaves.shape[1])
    ordered = np.sort(parts, axis=1)
    return float(1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1).mean())
