"""The fast feedforward layer in every way that is compared: BLAS calls, the paper's formulation, ours."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ufbert.cmm import cmm
from ufbert.fff import FFF, masked_dense_fff

from .dense import from_numpy, to_numpy
from .implementations import Function, Implementation, Situation, differentiated
from .operands import TreeWeights

__all__ = ["CONDITIONAL"]


def layer(weights: TreeWeights, situation: Situation) -> Function:
    """The module a user holds, backend `auto`."""
    trees, nodes, hidden = weights.w_in.shape
    if situation.direction == "training":
        return differentiated(lambda x, *operands: cmm(x, *operands), weights, "training")
    module = FFF(hidden, trees, nodes.bit_length() - 1, device="meta", dtype=situation.dtype)
    for name in ("w_in", "b_in", "w_out"):
        setattr(module, name, torch.nn.Parameter(getattr(weights, name), requires_grad=False))
    return module.eval()


def kernel(weights: TreeWeights, situation: Situation) -> Function:
    """The Numba kernels' own wrapper, without torch around it."""
    from ufbert import numba_kernels

    threads = situation.threads
    w_in, b_in, w_out = _operands(weights)
    if situation.direction == "forward":
        return lambda x: numba_kernels.forward(x, w_in, b_in, w_out, threads=threads)[0]

    def both(pair: tuple[Any, Any]) -> tuple[Any, ...]:
        x, grad_y = pair
        y, logits, leaves = numba_kernels.forward(x, w_in, b_in, w_out, threads=threads)
        gradients = numba_kernels.backward(
            x=x, w_in=w_in, w_out=w_out, grad_y=grad_y, logits=logits, leaves=leaves, threads=threads
        )
        return (y, *gradients)

    return both


def batched_gather(weights: TreeWeights, situation: Situation) -> Function:
    """The paper's PyTorch formulation: per level, gather every token's row, then one batched product."""

    def forward(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
        trees, nodes, hidden = w_in.shape
        tokens = x.shape[0]
        first = torch.arange(0, trees * nodes, nodes, device=x.device)  # each tree's root among all nodes
        rows_in, rows_out, biases = w_in.view(-1, hidden), w_out.view(-1, hidden), b_in.view(-1)
        node = torch.zeros((tokens, trees), dtype=torch.int64, device=x.device)
        y = torch.zeros_like(x)[:, None]  # (T, 1, H)
        for _ in range(nodes.bit_length()):
            index = (first + node).view(-1)
            gathered = rows_in.index_select(0, index).view(tokens, trees, hidden)
            logits = torch.bmm(gathered, x[:, :, None])[:, :, 0]  # (T, P)
            logits = logits + biases.index_select(0, index).view(tokens, trees)
            gathered = rows_out.index_select(0, index).view(tokens, trees, hidden)
            y = y + torch.bmm(F.gelu(logits)[:, None], gathered)
            node = 2 * node + 1 + (logits > 0)
        return y[:, 0]

    return differentiated(forward, weights, situation.direction)


def masked(weights: TreeWeights, situation: Situation) -> Function:
    """All neurons computed and masked: what the paper's training code does."""
    return differentiated(masked_dense_fff, weights, situation.direction)


def _operands(weights: TreeWeights) -> tuple[Any, Any, Any]:
    return weights.w_in.numpy(), weights.b_in.numpy(), weights.w_out.numpy()


def blas_level_1(weights: TreeWeights, situation: Situation) -> Function:
    """A dot and an axpy per visited node."""
    from ufbert.numba_kernels.blas_levels import conditional_level_1

    w_in, b_in, w_out = _operands(weights)
    return lambda x: conditional_level_1(x, w_in, b_in, w_out, situation.threads)


def blas_level_2(weights: TreeWeights, situation: Situation) -> Function:
    """gemv over the trees at each level, gemv over the gathered path at the end."""
    from ufbert.numba_kernels.blas_levels import conditional_level_2

    w_in, b_in, w_out = _operands(weights)
    return lambda x: conditional_level_2(x, w_in, b_in, w_out, situation.threads)


def _arrays(given: Any) -> Any:
    return tuple(map(to_numpy, given)) if isinstance(given, tuple) else to_numpy(given)


def _tensors(result: Any) -> Any:
    return tuple(map(from_numpy, result)) if isinstance(result, tuple) else from_numpy(result)


_BLAS: dict[str, Any] = {
    "layer": "fff", "devices": ("cpu",), "dtypes": ("float32",), "directions": ("forward",),
    "convert": to_numpy, "restore": from_numpy,
}  # fmt: skip
_KERNEL: dict[str, Any] = {
    "prepare": kernel, "devices": ("cpu",), "dtypes": ("float32",), "convert": _arrays, "restore": _tensors,
}  # fmt: skip

CONDITIONAL = (
    Implementation(
        name="blas-dot-axpy", level=1, prepare=blas_level_1, per_token=True, own_threads=True,
        about="BLAS Level 1: a dot and an axpy per visited node and token", **_BLAS,
    ),
    Implementation(
        name="blas-gemv", level=2, prepare=blas_level_2, per_token=True, own_threads=True,
        about="BLAS Level 2: gemv over the trees per level and over the path at the end", **_BLAS,
    ),
    Implementation(
        name="torch-bmm", layer="fff", prepare=batched_gather, gathers=True,
        about="the paper's PyTorch formulation: gathered rows in batched products",
    ),
    Implementation(
        name="torch-masked", layer="fff", prepare=masked, all_neurons=True, default=False,
        about="the paper's training code: all neurons computed, then masked",
    ),
    Implementation(name="ufbert", layer="fff", prepare=layer, about="ours: the FFF module, fastest backend"),
    Implementation(
        name="ufbert-kernel", layer="fff", about="ours: the Numba kernel without torch around it", **_KERNEL
    ),
    Implementation(
        name="path-ufbert", layer="fff", role="control", prepare=layer,
        about="control: our layer with one path's neurons as trees of depth 0, so nothing is decided",
    ),
)  # fmt: skip
