"""The ways to pool token vectors, by sentence-transformers' names. Imports nothing heavy: `--help` shows them."""

from __future__ import annotations

__all__ = ["FLAGS", "POOLINGS"]

FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The key of a file with a flag for each, in the order in which several are joined."""
POOLINGS = tuple(FLAGS.values())
