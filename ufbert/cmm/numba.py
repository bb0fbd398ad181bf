"""CPU: torch tensors as `ufbert.numba_kernels` takes them."""

from __future__ import annotations

import torch

from ufbert import numba_kernels

from . import shallow

__all__ = ["NARROWS_WEIGHTS", "NATIVE_DTYPES", "backward", "forward", "infer", "unavailable"]

_STORAGES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}
NATIVE_DTYPES = frozenset(_STORAGES)
# Rounding all weights for the few rows that are read would cost more than reading those in float32.
NARROWS_WEIGHTS = False


def unavailable(device: torch.device) -> str | None:
    """None on the CPU."""
    if device.type != "cpu":
        return f"backend numba computes on the CPU; the tensors are on {device}"
    return None


def forward(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As many threads as torch uses, so `torch.set_num_threads` rules both."""
    trees, nodes, hidden = w_in.shape
    tokens = x.shape[0]
    if shallow.is_faster(tokens, nodes, x.dtype):
        return shallow.forward(x, w_in, b_in, w_out)
    kept = torch.float64 if x.dtype == torch.float64 else torch.float32
    logits = torch.empty((tokens, trees, nodes.bit_length()), dtype=kept)
    leaves = torch.empty((tokens, trees), dtype=torch.int64)
    biases = b_in.to(kept)
    y = torch.empty_like(x)
    addresses = tuple(tensor.data_ptr() for tensor in (x, w_in, biases, w_out, y, logits, leaves))
    numba_kernels.forward_at(_STORAGES[x.dtype], addresses, tokens, trees, nodes, hidden, torch.get_num_threads())
    return y, logits, leaves


def infer(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
    """`forward` without what only a backward needs."""
    dtype = x.dtype
    trees, nodes, hidden = w_in.shape
    tokens = x.shape[0]
    if shallow.is_faster(tokens, nodes, dtype):
        return shallow.infer(x, w_in, b_in, w_out)
    if dtype is torch.bfloat16:
        b_in = b_in.float()
    # Addresses, since a NumPy view of every tensor would take longer than one token's walk. torch's memory
    # also starts on a cache line, which NumPy's does not.
    y = torch.empty_like(x)
    addresses = x.data_ptr(), w_in.data_ptr(), b_in.data_ptr(), w_out.data_ptr(), y.data_ptr(), 0, 0
    numba_kernels.forward_at(_STORAGES[dtype], addresses, tokens, trees, nodes, hidden, torch.get_num_threads())
    return y


def backward(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    grad_y: torch.Tensor,
    logits: torch.Tensor,
    leaves: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same for the gradients; bfloat16 is computed in float32."""
    narrow = x.dtype == torch.bfloat16
    if narrow:
        x, w_in, w_out, grad_y = x.float(), w_in.float(), w_out.float(), grad_y.float()
    grad_x, grad_w_in, grad_b_in, grad_w_out = numba_kernels.backward(
        grad_y.numpy(),
        x.numpy(),
        w_in.numpy(),
        w_out.numpy(),
        logits.numpy(),
        leaves.numpy(),
        threads=torch.get_num_threads(),
    )
    gradients = tuple(torch.from_numpy(g) for g in (grad_x, grad_w_in, grad_b_in, grad_w_out))
    a, b, c, d = (g.bfloat16() for g in gradients) if narrow else gradients
    return a, b, c, d
