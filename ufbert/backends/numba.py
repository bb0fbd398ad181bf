"""CPU: torch tensors to NumPy views and back, around `ufbert.numba_kernels`."""

from __future__ import annotations

import torch

from ufbert import numba_kernels

__all__ = ["NATIVE_DTYPES", "backward", "forward", "unavailable"]

NATIVE_DTYPES = frozenset((torch.float32, torch.float64))


def unavailable(device: torch.device) -> str | None:
    """None on the CPU."""
    if device.type != "cpu":
        return f"backend numba computes on the CPU; the tensors are on {device}"
    return None


def forward(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As many threads as torch uses, so `torch.set_num_threads` rules both."""
    y, logits, leaves = numba_kernels.forward(
        x.numpy(), w_in.numpy(), b_in.numpy(), w_out.numpy(), threads=torch.get_num_threads()
    )
    return torch.from_numpy(y), torch.from_numpy(logits), torch.from_numpy(leaves)


def backward(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    grad_y: torch.Tensor,
    logits: torch.Tensor,
    leaves: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same for the gradients."""
    grad_x, grad_w_in, grad_b_in, grad_w_out = numba_kernels.backward(
        grad_y.numpy(),
        x.numpy(),
        w_in.numpy(),
        w_out.numpy(),
        logits.numpy(),
        leaves.numpy(),
        threads=torch.get_num_threads(),
    )
    return (
        torch.from_numpy(grad_x),
        torch.from_numpy(grad_w_in),
        torch.from_numpy(grad_b_in),
        torch.from_numpy(grad_w_out),
    )
