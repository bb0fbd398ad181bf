"""For shallow trees, where a dense product of all neurons beats visiting: keep of all logits only the paths'."""

from __future__ import annotations

from typing import Any

import numpy as np

from .activation import gelu_into
from .compilation import kernel

__all__ = ["keep_paths"]


@kernel
def keep_paths(logits_tpn: Any, keep: bool, logits_tpd: Any, leaves_tp: Any, start: int, stop: int) -> None:
    """Tokens `start` to `stop`: in place, logits (tokens, P, N) become activations, zero off the paths.

    If `keep`, the logits met go to (tokens, P, D + 1) and the leaves to (tokens, P).
    """
    trees, nodes = logits_tpn.shape[1:]
    levels = 0
    while (1 << levels) <= nodes:
        levels += 1
    met_k = np.empty(trees * levels, logits_tpn.dtype)
    node_k = np.empty(trees * levels, np.int64)
    activations_k = np.empty(trees * levels, logits_tpn.dtype)
    for t in range(start, stop):
        for p in range(trees):
            node = np.int64(0)
            for d in range(levels):
                logit = logits_tpn[t, p, node]
                met_k[p * levels + d] = logit
                node_k[p * levels + d] = p * nodes + node
                if keep:
                    logits_tpd[t, p, d] = logit
                    leaves_tp[t, p] = node
                node = 2 * node + 1 + np.int64(logit > 0)
        gelu_into(met_k, activations_k)
        row = logits_tpn[t].reshape(-1)
        row[:] = 0
        for k in range(trees * levels):
            row[node_k[k]] = activations_k[k]
