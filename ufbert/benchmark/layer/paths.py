"""How the timed inputs spread over the trees, so that nobody is fooled by a benchmark that walks one path."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["entropy_bits", "expected_distinct", "path_statistics", "right_shares"]

SIMULATIONS = 8


def expected_distinct(leaves: int, tokens: int) -> float:
    """Distinct leaves that `tokens` independent tokens reach if every leaf is equally likely."""
    return leaves * -math.expm1(tokens * math.log1p(-1.0 / leaves)) if leaves > 1 else float(tokens > 0)


def entropy_bits(counts: npt.NDArray[np.integer[Any]]) -> float:
    """Entropy of the observed use, in bits; zeros in `counts` count nothing."""
    share = counts[counts > 0] / counts.sum()
    return float(max(0.0, -(share * np.log2(share)).sum()))


def right_shares(leaves: npt.NDArray[np.int64], depth: int) -> list[float]:
    """At each level from the root: the share of the tokens (over all trees) that went right."""
    path = leaves.astype(np.int64)
    shares = []
    for _ in range(depth):
        shares.append(float((path % 2 == 0).mean()))  # right children have even numbers
        path = (path - 1) // 2
    return shares[::-1]


def path_statistics(leaves: npt.NDArray[np.int64], depth: int, batches: Sequence[int], seed: int = 0) -> dict[str, Any]:
    """The `paths` of the JSON file, from the leaf (a node index) of every token in every tree: (tokens, P).

    Figures of several trees are their means. The entropy of a finite sample falls short of log2(leaves) even
    for perfectly uniform use, so its expectation under uniform use, simulated with `seed`, stands beside it.
    """
    tokens, trees = leaves.shape
    total = 1 << depth
    counts = [np.bincount(leaves[:, p] - (total - 1), minlength=total) for p in range(trees)]
    generator = np.random.default_rng(seed)
    uniform = [
        entropy_bits(np.bincount(generator.integers(0, total, tokens), minlength=total)) for _ in range(SIMULATIONS)
    ]
    return {
        "tokens": tokens,
        "leaves_per_tree": total,
        "distinct_leaves": float(np.mean([(c > 0).sum() for c in counts])),
        "expected_distinct_leaves": expected_distinct(total, tokens),
        "entropy_bits": float(np.mean([entropy_bits(c) for c in counts])),
        "expected_entropy_bits": float(np.mean(uniform)),
        "maximum_entropy_bits": float(depth),
        "largest_leaf_share": float(np.mean([c.max() for c in counts]) / tokens),
        "right_share_by_level": right_shares(leaves, depth),
        "batches": [
            {
                "batch": batch,
                "distinct_leaves": _distinct_in_batches(leaves, batch),
                "expected_distinct_leaves": expected_distinct(total, batch),
            }
            for batch in batches
            if batch <= tokens
        ],
    }


def _distinct_in_batches(leaves: npt.NDArray[np.int64], batch: int) -> float:
    """Mean over the batches of the pool, as they are timed, and over the trees."""
    whole = leaves[: len(leaves) // batch * batch]
    parts = whole.reshape(-1, batch, leaves.shape[1])
    ordered = np.sort(parts, axis=1)
    return float(1 + (ordered[:, 1:] != ordered[:, :-1]).sum(axis=1).mean())
