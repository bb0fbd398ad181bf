"""Backward CMM: gradients of the visited neurons only, in two passes that write disjoint memory.

With g the gradient of y and s the logit of a visited node: a = gelu(s), ds = gelu'(s) (g . w_out[node]),
grad_w_out[node] += a g, grad_w_in[node] += ds x, grad_b_in[node] += ds, grad_x += ds w_in[node].

The first pass is split over tokens, the second over trees and columns of the hidden size. Both take the tokens
in the order by leaf: neighbours share most of their path, so its rows stay in the caches. The second pass adds
up a few tokens at a time that fit into the first-level cache with their x and g; for each level it sweeps once
over a node's row of the gradient, whatever the number of these tokens that visited it. The order of additions
is that of the tokens: the result does not depend on the number of threads.

Letters: t tokens, p trees, n nodes of a tree, h hidden size, d levels (depth + 1).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .activation import gelu_gradient_into, gelu_into
from .compilation import kernel
from .products import dots_1x1, dots_4x1, weighted_sum
from .records import Gradients, Neurons, Rows

__all__ = ["add_weight_gradients", "order_by_leaf", "token_gradients"]

TOKENS_AT_A_TIME = 8


@kernel
def order_by_leaf(leaves_tp: Any, p: int, start: int, stop: int, nodes: int) -> Any:
    """The tokens `start` to `stop` ordered by their leaf in tree `p`, stably."""
    first_leaf = nodes // 2
    ends = np.zeros(nodes - first_leaf + 1, np.int64)
    for t in range(start, stop):
        ends[leaves_tp[t, p] - first_leaf + 1] += 1
    for leaf in range(1, ends.size):
        ends[leaf] += ends[leaf - 1]
    order = np.empty(stop - start, np.int64)
    for t in range(start, stop):
        leaf = leaves_tp[t, p] - first_leaf
        order[ends[leaf]] = t
        ends[leaf] += 1
    return order


@kernel
def token_gradients(
    g_th: Any, w_in_pnh: Any, w_out_pnh: Any, leaves_tp: Any, neurons: Neurons, grad_x_th: Any, start: int, stop: int
) -> None:
    """Tokens `start` to `stop`: writes their rows of grad_x_th, and of all in `neurons` but the logits."""
    logits_tpd, activations_tpd, grad_logits_tpd = neurons
    trees, nodes, hidden = w_in_pnh.shape
    levels = logits_tpd.shape[2]
    item = g_th.itemsize
    row = hidden * item
    dots_d = np.empty(levels, g_th.dtype)
    dots_at = dots_d.ctypes.data
    rows_d = np.empty(levels, np.int64)
    g_at = g_th.ctypes.data
    for p in range(trees):
        order = order_by_leaf(leaves_tp, p, start, stop, nodes)
        tree_at = w_out_pnh.ctypes.data + p * nodes * row
        for t in order:
            node = leaves_tp[t, p]
            for d in range(levels - 1, -1, -1):
                rows_d[d] = tree_at + node * row
                node = (node - 1) >> 1
            g = (g_at + t * row,)
            d = 0
            while d + 4 <= levels:
                dots_4x1(g_th, g, (rows_d[d], rows_d[d + 1], rows_d[d + 2], rows_d[d + 3]), hidden, dots_at + d * item)
                d += 4
            while d < levels:
                dots_1x1(g_th, g, (rows_d[d],), hidden, dots_at + d * item)
                d += 1
            for d in range(levels):
                grad_logits_tpd[t, p, d] = dots_d[d]
    count = trees * levels
    logits = logits_tpd.reshape(-1)[start * count : stop * count]
    gelu_into(logits, activations_tpd.reshape(-1)[start * count : stop * count])
    gelu_gradient_into(logits, grad_logits_tpd.reshape(-1)[start * count : stop * count])
    for p in range(trees):
        order = order_by_leaf(leaves_tp, p, start, stop, nodes)
        tree_at = w_in_pnh.ctypes.data + p * nodes * row
        for t in order:
            node = leaves_tp[t, p]
            for d in range(levels - 1, -1, -1):
                rows_d[d] = tree_at + node * row
                node = (node - 1) >> 1
            weights_at = grad_logits_tpd.ctypes.data + (t * count + p * levels) * item
            rows = Rows(rows_d.ctypes.data, weights_at, levels, hidden)
            weighted_sum(g_th, g_th, rows, grad_x_th.ctypes.data + t * row, p == 0, False)


@kernel
def add_weight_gradients(
    g_th: Any, x_th: Any, leaves_tp: Any, order_t: Any, neurons: Neurons, gradients: Gradients,
    p: int, start: int, stop: int,
) -> None:  # fmt: skip
    """Tree `p`, columns `start` to `stop` of its `gradients`: the sum over all tokens in the order `order_t`.

    The chunk that holds column 0 also adds up the bias gradient.
    """
    _, activations_tpd, grad_logits_tpd = neurons
    grad_w_in_nh, grad_b_in_n, grad_w_out_nh = gradients
    levels = grad_logits_tpd.shape[2]
    tokens = order_t.size
    item = g_th.itemsize
    row = x_th.shape[1] * item
    columns = stop - start
    # Here, so that threads share the time the system takes to hand out memory.
    grad_w_in_nh[:, start:stop] = 0
    grad_w_out_nh[:, start:stop] = 0
    x_at = x_th.ctypes.data + start * item
    g_at = g_th.ctypes.data + start * item
    grad_w_in_at = grad_w_in_nh.ctypes.data + start * item
    grad_w_out_at = grad_w_out_nh.ctypes.data + start * item
    x_rows = np.empty(TOKENS_AT_A_TIME, np.int64)
    g_rows = np.empty(TOKENS_AT_A_TIME, np.int64)
    node_i = np.empty(TOKENS_AT_A_TIME, np.int64)
    ds_i = np.empty(TOKENS_AT_A_TIME, g_th.dtype)
    a_i = np.empty(TOKENS_AT_A_TIME, g_th.dtype)
    for first in range(0, tokens, TOKENS_AT_A_TIME):
        count = min(TOKENS_AT_A_TIME, tokens - first)
        for i in range(count):
            t = order_t[first + i]
            x_rows[i] = x_at + t * row
            g_rows[i] = g_at + t * row
            node_i[i] = leaves_tp[t, p]
        for d in range(levels - 1, -1, -1):
            for i in range(count):
                t = order_t[first + i]
                ds_i[i] = grad_logits_tpd[t, p, d]
                a_i[i] = activations_tpd[t, p, d]
                if start == 0:
                    grad_b_in_n[node_i[i]] += ds_i[i]
            i = 0
            while i < count:
                node = node_i[i]
                end = i + 1
                while end < count and node_i[end] == node:
                    end += 1
                rows = Rows(x_rows.ctypes.data + 8 * i, ds_i.ctypes.data + item * i, end - i, columns)
                weighted_sum(g_th, g_th, rows, grad_w_in_at + node * row, False, False)
                rows = Rows(g_rows.ctypes.data + 8 * i, a_i.ctypes.data + item * i, end - i, columns)
                weighted_sum(g_th, g_th, rows, grad_w_out_at + node * row, False, False)
                i = end
            for i in range(count):
                node_i[i] = (node_i[i] - 1) >> 1
