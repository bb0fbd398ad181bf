"""The fast feedforward layer in every way that is compared: BLAS calls, the paper's formulation, ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from ufbert.inference.engine.feedforward import MakeLinear, pack_feedforward
from ufbert.inference.engine.linear import Int8Linear, PackedLinear
from ufbert.model.fff import FFF, masked_dense_fff

from .dense import linear_gelu_linear, no_onednn
from .gpu_layers import naive, no_gpu_kernels, no_kernels_on
from .implementations import Function, Implementation, Situation, differentiated, with_gradients
from .operands import INT8, TreeWeights, from_numpy, to_numpy

__all__ = ["CONDITIONAL"]


def layer(weights: TreeWeights, situation: Situation) -> Function:
    """The module a user holds, backend `auto`."""
    module = _module(weights)
    if situation.direction == "training":
        return with_gradients(module, list(module.parameters()))
    return module.requires_grad_(False).eval()


def packed(weights: TreeWeights, situation: Situation) -> Function:
    """The layer as `ufbert infer` runs it on a CPU, but for the sum with the residual."""
    dtype = situation.dtype
    make: MakeLinear = Int8Linear if situation.int8 else lambda w, b: PackedLinear(w, b, dtype)
    with torch.inference_mode(False), torch.no_grad():
        return pack_feedforward(_module(weights).requires_grad_(False), "gelu", dtype, make).eval()


def _module(weights: TreeWeights) -> FFF:
    trees, nodes, hidden = weights.w_in.shape
    shared = 0 if weights.shared is None else weights.shared.w_in.shape[0]
    dtype = weights.w_in.dtype
    module = FFF(hidden, trees, nodes.bit_length() - 1, shared_neurons=shared, device="meta", dtype=dtype)
    # The order of the parameters is that of the gradients.
    names = [name for name, _ in module.named_parameters()]
    module.load_state_dict(dict(zip(names, weights.tensors, strict=True)), assign=True)
    return module


def kernel(weights: TreeWeights, situation: Situation) -> Function:
    """The Numba kernels themselves: no module, no operator, no checks."""
    from ufbert import numba_kernels

    threads = situation.threads
    if situation.direction == "forward":
        trees, nodes, hidden = weights.w_in.shape
        held = (weights.w_in.data_ptr(), weights.b_in.data_ptr(), weights.w_out.data_ptr())

        def forward(x: torch.Tensor) -> torch.Tensor:
            y = torch.empty_like(x)
            addresses = (x.data_ptr(), *held, y.data_ptr(), 0, 0)
            numba_kernels.forward_at("float32", addresses, x.shape[0], trees, nodes, hidden, threads)
            return y

        return forward
    w_in, b_in, w_out = _operands(weights)

    def both(pair: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        x, grad_y = (part.numpy() for part in pair)
        y, logits, leaves = numba_kernels.forward(x, w_in, b_in, w_out, threads=threads)
        gradients = numba_kernels.backward(
            x=x, w_in=w_in, w_out=w_out, grad_y=grad_y, logits=logits, leaves=leaves, threads=threads
        )
        return tuple(map(from_numpy, (y, *gradients)))

    return both


def beside_shared(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """`forward(x, w_in, b_in, w_out)` of trees, and the dense product of the shared neurons whose tensors follow."""

    def both(x: torch.Tensor, *operands: torch.Tensor) -> torch.Tensor:
        trees, shared = operands[:3], operands[3:]
        y = forward(x, *trees)
        return y + linear_gelu_linear(x, *shared) if shared else y

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

    return differentiated(beside_shared(forward), weights, situation.direction)


def masked(weights: TreeWeights, situation: Situation) -> Function:
    """All neurons computed and masked: what the paper's training code does."""
    return differentiated(beside_shared(masked_dense_fff), weights, situation.direction)


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


_BLAS: dict[str, Any] = {
    "layer": "fff", "devices": ("cpu",), "dtypes": ("float32",), "directions": ("forward",),
    "convert": to_numpy, "restore": from_numpy, "timed_with": (False,),
}  # fmt: skip
_KERNEL: dict[str, Any] = {
    "prepare": kernel, "devices": ("cpu",), "dtypes": ("float32",), "timed_with": (False,),
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
        name="torch-masked", layer="fff", prepare=masked, all_neurons=True, default_on=(),
        about="the paper's training code: all neurons computed, then masked",
    ),
    Implementation(
        name="cuda-naive", layer="fff", prepare=naive, devices=("cuda",), directions=("forward",),
        timed_with=(False,), missing=no_gpu_kernels,
        about="the paper's GPU kernel: a thread to a token, reading value by value",
    ),
    Implementation(
        name="ufbert", layer="fff", prepare=layer, missing_on=no_kernels_on,
        about="ours: the FFF module, fastest backend",
    ),
    Implementation(
        name="ufbert-kernel", layer="fff", about="ours: the Numba kernels without module or operator", **_KERNEL
    ),
    Implementation(
        name="ufbert-packed", layer="fff", prepare=packed, devices=("cpu",), directions=("forward",),
        dtypes=("float32", "bfloat16", INT8), missing=no_onednn,
        about="ours as `ufbert infer` runs it: weights packed ahead, trees of depth 0 as a dense layer",
    ),
    Implementation(
        name="path-ufbert", layer="fff", role="control", prepare=layer, missing_on=no_kernels_on,
        about="control: our layer with one path's neurons as trees of depth 0, so nothing is decided",
    ),
)  # fmt: skip
