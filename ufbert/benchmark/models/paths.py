"""How a whole model's tokens spread over the trees of its layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ufbert.benchmark.layer.operands import TreeWeights
from ufbert.benchmark.layer.paths import path_statistics
from ufbert.benchmark.layer.reference import route
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.fff import FFF

__all__ = ["describe_paths"]


def describe_paths(encoder: UltraFastBertModel, input_ids: torch.Tensor, seed: int) -> dict[str, Any]:
    """Path statistics of what reaches each layer for input_ids (B, T), as means over the layers."""
    seen: list[dict[str, Any]] = []

    def look(module: FFF, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
        weights = TreeWeights(module.w_in.detach(), module.b_in.detach(), module.w_out.detach())
        leaves = route(inputs[0].reshape(-1, module.hidden_size), weights)
        seen.append(path_statistics(leaves.cpu().numpy(), module.depth, (), seed))

    hooks = [m.register_forward_hook(look) for m in encoder.modules() if isinstance(m, FFF)]
    with torch.inference_mode():
        encoder.encode(input_ids)
    for hook in hooks:
        hook.remove()
    if not seen:
        return {}
    means = {name: np.mean([layer[name] for layer in seen], axis=0).tolist() for name in seen[0] if name != "batches"}
    return {**means, "layers": len(seen), "least_distinct_leaves": min(s["distinct_leaves"] for s in seen)}
