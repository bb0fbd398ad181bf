"""How a whole model's tokens spread over the trees of its layers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from ufbert.benchmark.layer.paths import leaf_statistics
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.tree_health import LeafRecorder

__all__ = ["describe_paths"]

BY_LEVEL = "right_share_by_level"


def describe_paths(encoder: UltraFastBertModel, input_ids: torch.Tensor, seed: int) -> dict[str, Any]:
    """Path statistics of what reaches each layer for input_ids (B, T), as means over the layers with trees.

    Where their depths differ, the share going right at a level is the mean of those that have it.
    """
    recorder = LeafRecorder(encoder)
    with torch.inference_mode(), recorder.record():
        encoder.encode(input_ids)
    seen = [leaf_statistics(counts, seed) for counts in recorder.counts()]
    if not seen:
        return {}
    means: dict[str, Any] = {
        name: float(np.mean([layer[name] for layer in seen])) for name in seen[0] if name != BY_LEVEL
    }
    levels = itertools.zip_longest(*(layer[BY_LEVEL] for layer in seen))
    means[BY_LEVEL] = [float(np.mean([share for share in level if share is not None])) for level in levels]
    return {**means, "layers": len(seen), "least_distinct_leaves": min(s["distinct_leaves"] for s in seen)}
