"""CPU: torch tensors to NumPy views and back, around `ufbert.numba_kernels`."""

from __future__ import annotations

import torch

from ufbert import numba_kernels

__all__ = ["backward", "forward", "unavailable"]


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
    grad_y: torch.Tensor,
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    logits: torch.Tensor,
    leaves: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same for the gradients."""
    grad_x, grad_w_in, grad_b_in, grad_w_out = numba_kernels.backward(
        *(t.numpy() for t in (grad_y, x, w_in, w_out, logits, leaves)), threads=torch.get_num_threads()
    )
    return (
        torch.from_numpy(grad_x),
        torch.from_numpy(grad_w_in),
        torch.from_numpy(grad_b_in),
        torch.from_numpy(grad_w_out),
    )
