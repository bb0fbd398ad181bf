"""Forward CMM: every token walks one path per tree and adds up the neurons it meets.

    logit = x . w_in[p, node] + b_in[p, node];  y += gelu(logit) * w_out[p, node];  a tie goes left

Letters: t tokens, p trees, n nodes of a tree, h hidden size, d levels (depth + 1).
"""

from __future__ import annotations

import math
from typing import Any

from .compilation import kernel

__all__ = ["walk"]

SQRT_HALF = math.sqrt(0.5)


@kernel
def walk(
    x_th: Any,
    w_in_pnh: Any,
    b_in_pn: Any,
    w_out_pnh: Any,
    y_th: Any,
    logits_tpd: Any,
    leaves_tp: Any,
    start: int,
    stop: int,
) -> None:
    """Tokens `start` to `stop`: writes their rows of y_th, logits_tpd and leaves_tp."""
    trees, _, hidden = w_in_pnh.shape
    levels = logits_tpd.shape[2]
    zero = x_th.dtype.type(0)
    half = x_th.dtype.type(0.5)
    one = x_th.dtype.type(1)
    sqrt_half = x_th.dtype.type(SQRT_HALF)
    for t in range(start, stop):
        x = x_th[t]
        y = y_th[t]
        for h in range(hidden):
            y[h] = zero
        for p in range(trees):
            node = 0
            for level in range(levels):
                w_in = w_in_pnh[p, node]
                logit = zero
                for h in range(hidden):
                    logit += x[h] * w_in[h]
                logit += b_in_pn[p, node]
                logits_tpd[t, p, level] = logit
                activation = half * logit * (one + math.erf(logit * sqrt_half))
                w_out = w_out_pnh[p, node]
                for h in range(hidden):
                    y[h] += activation * w_out[h]
                leaves_tp[t, p] = node
                node = 2 * node + 1
                if logit > zero:
                    node += 1
