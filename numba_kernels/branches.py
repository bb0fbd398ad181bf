"""A layer of trees out of all its logits, and what a loss gains at each visited node, the untaken branch among it.

With gain_n = g . w_out[n], g the gradient of y, the walk that starts at node n adds to the loss, in first order, the
sum of gain times activation over its nodes. At a visited node the difference of the two walks that start at its
children is what the other decision would change; the decision's gradient is that difference times the slope of a
sigmoid. For a tree of depth D that needs the D + 1 nodes of the path and D (D + 1) / 2 beside it, of 2^(D + 1) - 1.

Storage: float32, float64, or uint16 for the bits of bfloat16; a row of it is widened to what is computed in.
Letters: t tokens, p trees, n nodes of a tree, d levels, k nodes on all paths of a token, j nodes beside them,
i numbers of a row, which are the nodes of all trees.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .activation import gelu_gradient_into, gelu_into
from .compilation import kernel

__all__ = ["branch_gradients", "path_activations"]


@kernel
def _widen(stored_i: Any, numbers_i: Any) -> None:
    if stored_i.itemsize == 2:
        bits_i = numbers_i.view(np.uint32)
        for i in range(numbers_i.size):
            bits_i[i] = np.uint32(stored_i[i]) << np.uint32(16)
        return
    for i in range(numbers_i.size):
        numbers_i[i] = stored_i[i]


@kernel
def _narrow(numbers_i: Any, stored_i: Any) -> None:
    """bfloat16 to the nearest, ties to even; a NaN stays one."""
    if stored_i.itemsize == 2:
        bits_i = numbers_i.view(np.uint32)
        for i in range(numbers_i.size):
            bits = bits_i[i]
            rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            stored_i[i] = np.uint16(0x7FC0) if nan else np.uint16(rounded)
        return
    for i in range(numbers_i.size):
        stored_i[i] = numbers_i[i]


@kernel
def path_activations(like: Any, logits_ti: Any, activations_ti: Any, trees: int, start: int, stop: int) -> None:
    """Tokens `start` to `stop`: activations of all nodes (tokens, P * N), zero off the paths. `like` is computed in."""
    size = logits_ti.shape[1]
    nodes = size // trees
    levels = 0
    while (1 << levels) <= nodes:
        levels += 1
    row_i = np.empty(size, like.dtype)
    node_k = np.empty(trees * levels, np.int64)
    logits_k = np.empty(trees * levels, like.dtype)
    values_k = np.empty(trees * levels, like.dtype)
    for t in range(start, stop):
        _widen(logits_ti[t], row_i)
        for p in range(trees):
            node = np.int64(0)
            for k in range(p * levels, (p + 1) * levels):
                node_k[k] = p * nodes + node
                logits_k[k] = row_i[p * nodes + node]
                node = 2 * node + 1 + np.int64(logits_k[k] > 0)
        gelu_into(logits_k, values_k)
        row_i[:] = 0
        for k in range(trees * levels):
            row_i[node_k[k]] = values_k[k]
        _narrow(row_i, activations_ti[t])


@kernel
def branch_gradients(
    like: Any, logits_ti: Any, gains_ti: Any, trees: int, temperature: float, start: int, stop: int
) -> None:
    """Tokens `start` to `stop`: in place, gains (tokens, P * N) become gradients of the logits, zero off the paths.

    `temperature` is the sigmoid's, in units of the logits; `like` is computed in.
    """
    dtype = like.dtype
    size = logits_ti.shape[1]
    nodes = size // trees
    levels = 0
    while (1 << levels) <= nodes:
        levels += 1
    beside = levels * (levels - 1) // 2
    one, inverse = dtype.type(1), dtype.type(1) / dtype.type(temperature)
    row_i = np.empty(size, dtype)
    gains_i = np.empty(size, dtype)
    node_k = np.empty(trees * levels, np.int64)
    logits_k = np.empty(trees * levels, dtype)
    values_k = np.empty(trees * levels, dtype)
    gradients_k = np.empty(trees * levels, dtype)
    logits_j = np.empty(trees * beside, dtype)
    gains_j = np.empty(trees * beside, dtype)
    values_j = np.empty(trees * beside, dtype)
    for t in range(start, stop):
        _widen(logits_ti[t], row_i)
        _widen(gains_ti[t], gains_i)
        k = j = 0
        for p in range(trees):
            root = p * nodes
            node = np.int64(0)
            for d in range(levels):
                logit = row_i[root + node]
                node_k[k] = root + node
                logits_k[k] = logit
                gradients_k[k] = gains_i[root + node]
                k += 1
                right = np.int64(logit > 0)
                other = 2 * node + 2 - right
                for _ in range(levels - 1 - d):
                    logits_j[j] = row_i[root + other]
                    gains_j[j] = gains_i[root + other]
                    other = 2 * other + 1 + np.int64(logits_j[j] > 0)
                    j += 1
                node = 2 * node + 1 + right
        gelu_into(logits_k, values_k)
        gelu_into(logits_j, values_j)
        for k in range(values_k.size):
            values_k[k] *= gradients_k[k]
        for j in range(values_j.size):
            values_j[j] *= gains_j[j]
        gelu_gradient_into(logits_k, gradients_k)
        gains_i[:] = 0
        for p in range(trees):
            taken = dtype.type(0)
            j = (p + 1) * beside
            for d in range(levels - 1, -1, -1):
                k = p * levels + d
                untaken = dtype.type(0)
                for _ in range(levels - 1 - d):
                    j -= 1
                    untaken += values_j[j]
                logit = logits_k[k]
                e = dtype.type(math.exp(-abs(logit) * inverse))
                slope = e / ((one + e) * (one + e)) * inverse
                difference = taken - untaken if logit > 0 else untaken - taken
                gains_i[node_k[k]] = gradients_k[k] + slope * difference
                taken += values_k[k]
        _narrow(gains_i, gains_ti[t])
