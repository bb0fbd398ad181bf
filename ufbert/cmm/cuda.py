"""GPU: device addresses and torch's current stream, around `ufbert.cuda`.

Nothing here waits for the GPU, so calls can be captured into a CUDA graph after one call of the same shape outside
it. Forward and backward always give the same bits for the same input, whether or not
`torch.use_deterministic_algorithms` asks for it.
"""

from __future__ import annotations

import torch

from ufbert.cuda import launcher

from . import reference

__all__ = ["NARROWS_WEIGHTS", "NATIVE_DTYPES", "backward", "forward", "infer", "unavailable"]

_DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
# float64, for gradient checks, goes to the reference.
NATIVE_DTYPES = frozenset((*_DTYPES, torch.float64))
# The few rows that a token reads are then half as long, and the weights fit into the GPU's L2 cache.
NARROWS_WEIGHTS = True


def unavailable(device: torch.device) -> str | None:
    """None on a CUDA GPU with driver and a compiler that builds for it, else what is missing."""
    if reason := launcher.availability():
        return reason
    if device.type != "cuda":
        return f"backend cuda computes on a GPU; the tensors are on {device}"
    return launcher.availability(torch.cuda.current_device() if device.index is None else device.index)


def forward(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x (tokens, H) -> y (tokens, H), logits (tokens, P, D + 1) float32, leaves (tokens, P) int64."""
    if x.dtype not in _DTYPES:
        return reference.forward(x, w_in, b_in, w_out)
    sizes = _sizes(x, w_in)
    y = torch.empty_like(x)
    logits = x.new_empty((sizes["tokens"], sizes["trees"], sizes["depth"] + 1), dtype=torch.float32)
    leaves = x.new_empty((sizes["tokens"], sizes["trees"]), dtype=torch.int64)
    arrays = {"x": x, "w_in": w_in, "b_in": b_in, "w_out": w_out, "y": y, "logits": logits, "leaves": leaves}
    with torch.cuda.device(x.device):
        launcher.forward(
            **_addresses(arrays),
            **sizes,
            dtype=_DTYPES[x.dtype],
            device=x.get_device(),
            stream=torch.cuda.current_stream(x.device).cuda_stream,
        )
    return y, logits, leaves


def infer(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
    """The y of `forward` alone."""
    return forward(x, w_in, b_in, w_out)[0]


def backward(
    x: torch.Tensor,
    w_in: torch.Tensor,
    w_out: torch.Tensor,
    grad_y: torch.Tensor,
    logits: torch.Tensor,
    leaves: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of x, w_in, b_in, w_out, deterministic; the tokens are sorted by leaf first."""
    if x.dtype not in _DTYPES:
        return reference.backward(x, w_in, w_out, grad_y, logits, leaves)
    sizes = _sizes(x, w_in)
    first = 1 << sizes["depth"]
    by_leaf, order = torch.sort(leaves.T.contiguous(), dim=1, stable=True)
    bounds = torch.arange(first - 1, 2 * first, device=x.device).expand(sizes["trees"], -1).contiguous()
    results = {
        "grad_x": torch.empty_like(x),
        "grad_w_in": torch.empty_like(w_in),
        "grad_b_in": w_in.new_empty(w_in.shape[:2]),
        "grad_w_out": torch.empty_like(w_out),
    }
    arrays = {
        "grad_y": grad_y, "x": x, "w_in": w_in, "w_out": w_out, "logits": logits, "leaves": leaves,
        "order": order, "leaf_starts": torch.searchsorted(by_leaf, bounds),
        "workspace": x.new_empty(launcher.backward_workspace(**sizes), dtype=torch.uint8), **results,
    }  # fmt: skip
    with torch.cuda.device(x.device):
        launcher.backward(
            **_addresses(arrays),
            **sizes,
            dtype=_DTYPES[x.dtype],
            device=x.get_device(),
            stream=torch.cuda.current_stream(x.device).cuda_stream,
        )
    return results["grad_x"], results["grad_w_in"], results["grad_b_in"], results["grad_w_out"]


def _sizes(x: torch.Tensor, w_in: torch.Tensor) -> dict[str, int]:
    trees, nodes, hidden = w_in.shape
    return {"tokens": x.shape[0], "hidden": hidden, "trees": trees, "depth": nodes.bit_length() - 1}


def _addresses(arrays: dict[str, torch.Tensor]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in arrays.items()}
