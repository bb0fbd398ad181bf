"""Backward CMM: gradients of the visited neurons only, in two passes that write disjoint memory.

With g the gradient of y and s the logit of a visited node: a = gelu(s), ds = gelu'(s) (g . w_out[node]),
grad_w_out[node] += a g, grad_w_in[node] += ds x, grad_b_in[node] += ds, grad_x += ds w_in[node].

The first pass is split over tokens, the second over trees and columns of the hidden size. The second adds
up tokens in one fixed order, so the result does not depend on the number of threads. That order is by leaf:
neighbours then share most of their path, and the rows being added to stay in the cache.

Letters: t tokens, p trees, n nodes of a tree, h hidden size, d levels (depth + 1).
"""

from __future__ import annotations

import math
from typing import Any

from .compilation import kernel

__all__ = ["add_weight_gradients", "token_gradients"]

SQRT_HALF = math.sqrt(0.5)
INVERSE_SQRT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)


@kernel
def token_gradients(
    g_th: Any,
    w_in_pnh: Any,
    w_out_pnh: Any,
    logits_tpd: Any,
    leaves_tp: Any,
    grad_x_th: Any,
    activations_tpd: Any,
    grad_logits_tpd: Any,
    start: int,
    stop: int,
) -> None:
    """Tokens `start` to `stop`: writes their rows of grad_x_th, activations_tpd and grad_logits_tpd."""
    trees, _, hidden = w_in_pnh.shape
    levels = logits_tpd.shape[2]
    zero = g_th.dtype.type(0)
    half = g_th.dtype.type(0.5)
    one = g_th.dtype.type(1)
    sqrt_half = g_th.dtype.type(SQRT_HALF)
    density_scale = g_th.dtype.type(INVERSE_SQRT_TWO_PI)
    for t in range(start, stop):
        g = g_th[t]
        grad_x = grad_x_th[t]
        for h in range(hidden):
            grad_x[h] = zero
        for p in range(trees):
            node = leaves_tp[t, p]
            for level in range(levels - 1, -1, -1):
                s = logits_tpd[t, p, level]
                w_out = w_out_pnh[p, node]
                dot = zero
                for h in range(hidden):
                    dot += g[h] * w_out[h]
                cumulative = half * (one + math.erf(s * sqrt_half))
                ds = dot * (cumulative + s * density_scale * math.exp(-half * s * s))
                activations_tpd[t, p, level] = s * cumulative
                grad_logits_tpd[t, p, level] = ds
                w_in = w_in_pnh[p, node]
                for h in range(hidden):
                    grad_x[h] += ds * w_in[h]
                node = (node - 1) // 2


@kernel
def add_weight_gradients(
    g_th: Any,
    x_th: Any,
    activations_tpd: Any,
    grad_logits_tpd: Any,
    leaves_tp: Any,
    order_t: Any,
    grad_w_in_nh: Any,
    grad_b_in_n: Any,
    grad_w_out_nh: Any,
    p: int,
    start: int,
    stop: int,
) -> None:
    """Tree `p`, columns `start` to `stop`: adds every token, in the order `order_t`, to that tree's gradients.

    The chunk that holds column 0 also adds up the bias gradient.
    """
    levels = grad_logits_tpd.shape[2]
    for i in range(order_t.shape[0]):
        t = order_t[i]
        x = x_th[t]
        g = g_th[t]
        node = leaves_tp[t, p]
        for level in range(levels - 1, -1, -1):
            ds = grad_logits_tpd[t, p, level]
            a = activations_tpd[t, p, level]
            grad_w_in = grad_w_in_nh[node]
            grad_w_out = grad_w_out_nh[node]
            for h in range(start, stop):
                grad_w_in[h] += ds * x[h]
                grad_w_out[h] += a * g[h]
            if start == 0:
                grad_b_in_n[node] += ds
            node = (node - 1) // 2
