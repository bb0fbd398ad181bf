"""What training decisions needs of a layer's logits, by the CPU kernels; `path_passes` has the same as passes of torch.

The kernels are imported late: what never trains a decision need not wait for them.
"""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["branch_gradients", "path_activations"]


def path_activations(logits: torch.Tensor, trees: int) -> torch.Tensor:
    """gelu of contiguous logits (tokens, P * N) in float32, float64 or bfloat16, zero off each token's paths."""
    from ufbert import numba_kernels

    activations = numba_kernels.path_activations(
        _storage(logits), _stored(logits), trees, threads=torch.get_num_threads()
    )
    return torch.from_numpy(activations).view(logits.dtype)


def branch_gradients(logits: torch.Tensor, gains: torch.Tensor, trees: int, temperature: float) -> None:
    """The gradients of all activations, were all visited, (tokens, P * N), in place to those of the logits.

    Zero off the paths; on them with what the loss would gain by the other branch, times the slope of a sigmoid of
    `temperature`. Both are contiguous and of one type, as in `path_activations`.
    """
    from ufbert import numba_kernels

    numba_kernels.branch_gradients(
        _storage(logits), _stored(logits), _stored(gains), trees, temperature, threads=torch.get_num_threads()
    )


def _storage(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _stored(tensor: torch.Tensor) -> Any:
    """As the kernels take it: bfloat16 as its bits."""
    bits = tensor.detach().view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor.detach()
    return bits.numpy()
