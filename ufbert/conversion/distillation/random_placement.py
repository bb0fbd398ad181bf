"""Neurons on the nodes of trees at random: the control of what placing them by their worth brings."""

from __future__ import annotations

import torch

from ufbert.cmm.tree import node_count

__all__ = ["place_at_random"]


def place_at_random(count: int, trees: int, depth: int) -> torch.Tensor:
    """The neuron, of `count`, of each node (P, N); no path has one twice, where it need not.

    They are dealt out of shuffled packs, level by level, so that none has its second node before all have their first;
    one that stands above its node already is drawn anew.
    """
    packs = -(-trees * node_count(depth) // count)
    dealt = torch.cat([torch.randperm(count) for _ in range(packs)])
    placed = torch.zeros(trees, node_count(depth), dtype=torch.int64)
    above = torch.empty(trees, 0, dtype=torch.int64)  # (nodes of the level, levels above it)
    for level in range(depth + 1):
        first = (1 << level) - 1
        chosen = dealt[trees * first :][: len(above)].clone()
        if level < count:
            while (again := (chosen[:, None] == above).any(1)).any():
                chosen[again] = torch.randint(count, (int(again.sum()),))
        placed[:, first : 2 * first + 1] = chosen.view(trees, -1)
        above = torch.cat((above, chosen[:, None]), 1).repeat_interleave(2, 0)
    return placed
