"""How a whole model's tokens spread over the trees of its layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ufbert.benchmark.layer.paths import leaf_statistics
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.tree_health import LeafRecorder

__all__ = ["describe_paths"]


def describe_paths(encoder: UltraFastBertModel, input_ids: torch.Tensor, seed: int) -> dict[str, Any]:
    """Path statistics of what reaches each layer for input_ids (B, T), as means over the layers."""
    recorder = LeafRecorder(encoder)
    with torch.inference_mode(), recorder.record():
        encoder.encode(input_ids)
    seen = [leaf_statistics(counts, seed) for counts in recorder.counts()]
    if not seen:
        return {}
    means = {name: np.mean([layer[name] for layer in seen], axis=0).tolist() for name in seen[0]}
    return {**means, "layers": len(seen), "least_distinct_leaves": min(s["distinct_leaves"] for s in seen)}
