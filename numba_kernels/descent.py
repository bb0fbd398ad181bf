"""Routing: which path every token takes through one tree, and the logits it meets there.

What bounds it is where rows lie, not arithmetic: a row of 768 float32 takes 8 ns as part of a tile whose rows
are in the first-level cache, 24 ns from the second, 31 from the third, 80 from memory (one core, measured). So:

- Tokens at one node stand together, in `order`; a node's row, read once, serves them all.
- The tree is walked depth first. As the groups get smaller, their tokens' x move into the second-level cache
  and then into the first, and stay there for all levels below.
- Two levels are decided at once from a node and both its children, two tokens at a time: half as many passes over x
  for half as much arithmetic again, of which there is enough; 25 ns a token with x in the second-level cache. But
  where x comes from memory, one level with four tokens at a time goes first: four rows read side by side take
  75 to 102 ns each, two 119 to 199. (The same rows asked for ahead, by any number of prefetches, gained nothing.)
- The decisions are computed, not branched upon. They are as good as random: a branch would be mispredicted
  every other time and throw away the loads for the next tokens that the processor has under way.
- Fewer than `FEWEST_TOGETHER` tokens share too little. They are queued by level and walk on in eights.
- More tokens than fit into a cache first go down the top levels in blocks that do fit; then all of them are
  sorted by the node reached, and each node's tokens go on by themselves. x is read twice from memory rather than
  once for each pair of levels.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .compilation import kernel
from .products import dots_1x1, dots_1x4, dots_3x2
from .records import Group, Met, RoutingSpace, Tokens, Tree
from .walk import LEAF_PLACE, LOGIT_PLACE, NODE, ROOT, TOKEN, WALKERS, walk

__all__ = ["route", "routing_space"]

FEWEST_TOGETHER = 8
# The rows of x of a block, and of a node's share after sorting: half a second-level cache.
BLOCK_BYTES = 1 << 19


@kernel
def _partition(order_t: Any, low: int, high: int, choices_t: Any, spare_t: Any, ends: Any, ways: int) -> None:
    """Order the tokens order_t[low:high] by choice, stably; `ends` receives where each of the `ways` ends."""
    for choice in range(ways):
        ends[choice] = 0
    for i in range(low, high):
        spare_t[i] = order_t[i]
        ends[choices_t[i]] += 1
    start = low
    for choice in range(ways):
        start += ends[choice]
        ends[choice] = start - ends[choice]
    for i in range(low, high):
        choice = choices_t[i]
        order_t[ends[choice]] = spare_t[i]
        ends[choice] += 1


@kernel
def _one_level(tree: Tree, tokens: Tokens, met: Met, space: RoutingSpace, group: Group) -> None:
    """The tokens of a group past its node, and which child each goes to."""
    like, w_at, b_n, hidden, row, _ = tree
    x_at, order_t, _ = tokens
    logits, width, leaves_t = met
    choices_t = space.choices_t
    out = space.out
    low, high, node, level = group
    out_at = out.ctypes.data
    w = w_at + node * row
    i = low
    while i < high:
        count = min(4, high - i)
        if count == 4:
            dots_1x4(
                like,
                (
                    x_at + order_t[i] * row,
                    x_at + order_t[i + 1] * row,
                    x_at + order_t[i + 2] * row,
                    x_at + order_t[i + 3] * row,
                ),
                (w,),
                hidden,
                out_at,
            )
        else:
            count = 1
            dots_1x1(like, (x_at + order_t[i] * row,), (w,), hidden, out_at)
        for j in range(count):
            t = order_t[i + j]
            logit = out[j] + b_n[node]
            logits[t * width + level] = logit
            leaves_t[t] = node
            choices_t[i + j] = np.int64(logit > 0)
        i += count


@kernel
def _two_levels(tree: Tree, tokens: Tokens, met: Met, space: RoutingSpace, group: Group) -> None:
    """The tokens of a group past its node and the child each goes to, and which grandchild comes next."""
    like, w_at, b_n, hidden, row, _ = tree
    x_at, order_t, _ = tokens
    logits, width, leaves_t = met
    choices_t = space.choices_t
    out = space.out
    low, high, node, level = group
    out_at = out.ctypes.data
    w = w_at + node * row
    child = 2 * node + 1
    w_child = w_at + child * row
    for i in range(low, high, 2):
        second = min(i + 1, high - 1)
        x = (x_at + order_t[i] * row, x_at + order_t[second] * row)
        dots_3x2(like, x, (w, w_child, w_child + row), hidden, out_at)
        for j in range(2):
            t = order_t[i] if j == 0 else order_t[second]
            logit = out[3 * j] + b_n[node]
            right = np.int64(logit > 0)
            logit_of_child = out[3 * j + 1 + right] + b_n[child + right]
            logits[t * width + level] = logit
            logits[t * width + level + 1] = logit_of_child
            leaves_t[t] = child + right
            choices_t[i + j] = 2 * right + np.int64(logit_of_child > 0)


@kernel
def _descend(
    tree: Tree, tokens: Tokens, met: Met, space: RoutingSpace, reached_t: Any, top: Group, stop: int, fewest: int
) -> None:
    """The tokens of the group `top` down to level `stop`.

    Above the leaves it stops with the node reached in `reached_t`. Groups of fewer than `fewest` are queued.
    """
    levels = tree.levels
    x_at, order_t, cold = tokens
    logits, width, leaves_t = met
    spare_t, choices_t, stack, queues, queued, ends, out = space
    stack[0, 0] = top.low
    stack[0, 1] = top.high
    stack[0, 2] = top.node
    stack[0, 3] = top.level
    height = 1
    while height > 0:
        height -= 1
        low = stack[height, 0]
        high = stack[height, 1]
        node = stack[height, 2]
        level = stack[height, 3]
        if level >= stop:
            if stop < levels:
                for i in range(low, high):
                    reached_t[order_t[i]] = node
            continue
        if high - low < fewest:
            queue = queues[level]
            for i in range(low, high):
                t = order_t[i]
                count = queued[level]
                queue[TOKEN, count] = x_at + t * tree.row
                queue[ROOT, count] = 0
                queue[NODE, count] = node
                queue[LOGIT_PLACE, count] = t * width + level
                queue[LEAF_PLACE, count] = t
                queued[level] = count + 1
                if count + 1 == WALKERS:
                    walk(tree, queue, count + 1, levels - level, logits, leaves_t, out)
                    queued[level] = 0
            continue
        single = level + 1 == levels or (cold and level == top.level)
        group = Group(low, high, node, level)
        if single:
            _one_level(tree, tokens, met, space, group)
        else:
            _two_levels(tree, tokens, met, space, group)
        below = level + (1 if single else 2)
        if below == levels:
            continue
        ways = 2 if single else 4
        _partition(order_t, low, high, choices_t, spare_t, ends, ways)
        for choice in range(ways - 1, -1, -1):
            start = low if choice == 0 else ends[choice - 1]
            if ends[choice] > start:
                stack[height, 0] = start
                stack[height, 1] = ends[choice]
                stack[height, 2] = ways * node + ways - 1 + choice
                stack[height, 3] = below
                height += 1


@kernel
def _sort_by_node(order_t: Any, spare_t: Any, reached_t: Any, first_node: int, ends_k: Any) -> None:
    """Order the tokens by the node reached, stably; `ends_k` receives where each node's end."""
    ends_k[:] = 0
    for i in range(order_t.size):
        spare_t[i] = order_t[i]
        ends_k[reached_t[order_t[i]] - first_node] += 1
    start = 0
    for k in range(ends_k.size):
        count = ends_k[k]
        ends_k[k] = start
        start += count
    for i in range(order_t.size):
        k = reached_t[spare_t[i]] - first_node
        order_t[ends_k[k]] = spare_t[i]
        ends_k[k] += 1


@kernel
def routing_space(tokens: int, levels: int, like_logits: Any) -> RoutingSpace:
    """What `route` works in, for up to `tokens` tokens."""
    return RoutingSpace(
        spare_t=np.empty(tokens, np.int64),
        choices_t=np.empty(tokens + 1, np.int64),
        stack=np.empty((4 * levels + 4, 4), np.int64),
        queues=np.empty((levels, 5, WALKERS), np.int64),
        queued=np.zeros(levels, np.int64),
        ends=np.empty(4, np.int64),
        out=np.empty(WALKERS, like_logits.dtype),
    )


@kernel
def _sorting_level(tokens: int, levels: int, row: int, cold: bool) -> int:
    """The level at which a node's share of the tokens is about a block; 0 if all of them are no more than that."""
    block = max(64, BLOCK_BYTES // row)
    top = 0
    if levels > 2 and tokens > block:
        top = 1 if cold else 2
        while top + 2 < levels and (tokens >> top) > block:
            top += 2
    return top


@kernel
def _descend_to(tree: Tree, tokens: Tokens, met: Met, space: RoutingSpace, reached_t: Any, top: int) -> None:
    """The tokens, in blocks, from the root down to level `top`: the node that each reaches there."""
    block = max(64, BLOCK_BYTES // tree.row)
    # Numba compiles a kernel anew for each constant it is given.
    nothing = np.int64(0)
    for first in range(0, tokens.order_t.size, block):
        last = min(first + block, tokens.order_t.size)
        _descend(tree, tokens, met, space, reached_t, Group(first, last, nothing, nothing), top, nothing)


@kernel
def _descend_below(
    tree: Tree, tokens: Tokens, met: Met, space: RoutingSpace, top: int, first_node: int, ends_k: Any
) -> None:
    """The tokens, sorted by node from `first_node` on at level `top`, node by node down to the leaves.

    `ends_k` says where each node's tokens end.
    """
    levels = tree.levels
    space.queued[:] = 0
    first = np.int64(0)
    fewest = np.int64(FEWEST_TOGETHER)
    for k in range(ends_k.size):
        last = ends_k[k]
        if last > first:
            _descend(tree, tokens, met, space, space.spare_t, Group(first, last, first_node + k, top), levels, fewest)
        first = last
    for level in range(levels):
        if space.queued[level] > 0:
            walk(tree, space.queues[level], space.queued[level], levels - level, met.logits, met.leaves_t, space.out)


@kernel
def route(tree: Tree, tokens: Tokens, met: Met, space: RoutingSpace) -> None:
    """Tokens through one tree.

    `tokens.order_t` holds all of them in any order and leaves them ordered by leaf, but for the few that walked alone,
    which stand near their neighbours. `space` is `routing_space`'s.
    """
    count = tokens.order_t.size
    top = _sorting_level(count, tree.levels, tree.row, tokens.cold)
    ends_k = np.empty(1 << top, np.int64)
    ends_k[0] = count
    if top > 0:
        reached_t = np.empty(count, np.int64)
        _descend_to(tree, tokens, met, space, reached_t, top)
        _sort_by_node(tokens.order_t, space.spare_t, reached_t, ends_k.size - 1, ends_k)
    _descend_below(tree, tokens, met, space, top, ends_k.size - 1, ends_k)
