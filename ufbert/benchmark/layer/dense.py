"""The dense layer in every way that might be the fastest, and the control with one path's neurons.

Which is the fastest depends on the processor. On AMD, the MKL behind torch's float32 linear layers leaves
out the 512-bit instructions, and oneDNN with weights packed ahead takes less than half its time; freezing a
compiled model packs for MKL and stays as slow. A benchmark against `torch.nn.Linear` alone would flatter
everybody there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from ufbert.benchmark.machine.tensor_float import in_tf32
from ufbert.inference.engine.linear import Int8Linear
from ufbert.system.compiler import no_compiler

from .implementations import Function, Implementation, Situation, differentiated
from .operands import INT8, DenseWeights, from_numpy, to_numpy

__all__ = ["DENSE", "linear_gelu_linear", "no_onednn"]


def linear_gelu_linear(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
    """x (tokens, H), w_in (N, H), b_in (N,), w_out (H, N) -> (tokens, H)."""
    return F.linear(F.gelu(F.linear(x, w_in, b_in)), w_out)


def eager(weights: DenseWeights, situation: Situation) -> Function:
    """torch as it comes."""
    return differentiated(linear_gelu_linear, weights, situation.direction)


def compiled(weights: DenseWeights, situation: Situation) -> Function:
    """torch.compile for exactly this batch size; the layers of a cycle share the code."""
    return differentiated(_compile("default"), weights, situation.direction)


def autotuned(weights: DenseWeights, situation: Situation) -> Function:
    """torch.compile with a search over its own matrix-product templates."""
    return differentiated(_compile("max-autotune-no-cudagraphs"), weights, situation.direction)


def _compile(mode: str) -> Any:
    return torch.compile(linear_gelu_linear, dynamic=False, fullgraph=True, mode=mode)


def linear_gelu_linear_in_tf32(
    x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor
) -> torch.Tensor:
    """As `linear_gelu_linear`; torch.compile keeps what it compiled by function, and this one has other products."""
    return F.linear(F.gelu(F.linear(x, w_in, b_in)), w_out)


def eager_tf32(weights: DenseWeights, situation: Situation) -> Function:
    """`eager` with TF32."""
    return in_tf32(eager(weights, situation))


def compiled_tf32(weights: DenseWeights, situation: Situation) -> Function:
    """`compiled` with TF32."""
    return _compile_tf32("default", weights, situation)


def autotuned_tf32(weights: DenseWeights, situation: Situation) -> Function:
    """`autotuned` with TF32."""
    return _compile_tf32("max-autotune-no-cudagraphs", weights, situation)


def _compile_tf32(mode: str, weights: DenseWeights, situation: Situation) -> Function:
    forward: Any = torch.compile(linear_gelu_linear_in_tf32, dynamic=False, fullgraph=True, mode=mode)
    return in_tf32(differentiated(forward, weights, situation.direction))


def onednn_prepacked(weights: DenseWeights, situation: Situation) -> Function:
    """oneDNN with its own weight layout and GELU fused into the first product."""
    ops = torch.ops.mkldnn
    with torch.inference_mode(False), torch.no_grad():
        w_in, w_out = (ops._reorder_linear_weight(w, situation.batch) for w in (weights.w_in, weights.w_out))
    b_in = weights.b_in

    def call(x: torch.Tensor) -> torch.Tensor:
        hidden = ops._linear_pointwise(x, w_in, b_in, "gelu", [], "none")
        y: torch.Tensor = ops._linear_pointwise(hidden, w_out, None, "none", [], "")
        return y

    return call


def onednn_int8(weights: DenseWeights, situation: Situation) -> Function:
    """Both products of 8 bits, as `ufbert infer` computes the projections: a scale for each row of either side."""
    linear_in, linear_out = Int8Linear(weights.w_in, weights.b_in), Int8Linear(weights.w_out, None)
    return lambda x: linear_out(linear_in(x, activation="gelu"))


def mkl_prepacked(weights: DenseWeights, situation: Situation) -> Function:
    """MKL with its own weight layout; what freezing a compiled model gives in float32."""
    ops = torch.ops.mkl
    batch = situation.batch
    with torch.inference_mode(False), torch.no_grad():
        packed_in, packed_out = (ops._mkl_reorder_linear_weight(w, batch) for w in (weights.w_in, weights.w_out))

    def call(x: torch.Tensor) -> torch.Tensor:
        hidden = F.gelu(ops._mkl_linear(x, packed_in, weights.w_in, weights.b_in, batch))
        y: torch.Tensor = ops._mkl_linear(hidden, packed_out, weights.w_out, None, batch)
        return y

    return call


def batched_gather(weights: DenseWeights, situation: Situation) -> Function:
    """Each token with its own view of all rows, as one batched product: the paper's formulation."""

    def forward(x: torch.Tensor, w_in: torch.Tensor, b_in: torch.Tensor, w_out: torch.Tensor) -> torch.Tensor:
        tokens = x.shape[0]
        logits = torch.bmm(w_in.expand(tokens, -1, -1), x[:, :, None])[:, :, 0] + b_in  # (T, N)
        return torch.bmm(w_out.expand(tokens, -1, -1), F.gelu(logits)[:, :, None])[:, :, 0]  # (T, H)

    return differentiated(forward, weights, situation.direction)


def _rows(weights: DenseWeights) -> tuple[Any, Any, Any]:
    """For BLAS: w_out with a neuron's row contiguous."""
    return weights.w_in.numpy(), weights.b_in.numpy(), weights.w_out.T.contiguous().numpy()


def blas_level_1(weights: DenseWeights, situation: Situation) -> Function:
    """A dot and an axpy per neuron."""
    from ufbert.numba_kernels.blas_levels import dense_level_1

    w_in, b_in, w_out = _rows(weights)
    return lambda x: dense_level_1(x, w_in, b_in, w_out, situation.threads)


def blas_level_2(weights: DenseWeights, situation: Situation) -> Function:
    """Two gemv per token."""
    from ufbert.numba_kernels.blas_levels import dense_level_2

    w_in, b_in, w_out = _rows(weights)
    return lambda x: dense_level_2(x, w_in, b_in, w_out, situation.threads)


def blas_level_3(weights: DenseWeights, situation: Situation) -> Function:
    """Two gemm; GELU by torch, whose vectorised one is the fastest at hand."""
    from scipy.linalg.blas import sgemm

    # sgemm takes Fortran's order, so every matrix goes in as the transposed view of what lies in memory.
    w_in, w_out = weights.w_in.numpy().T, weights.w_out.numpy().T
    b_in = weights.b_in

    def call(x: Any) -> Any:
        logits = sgemm(1.0, w_in, x.T, trans_a=1).T  # (T, N)
        activations = F.gelu(torch.from_numpy(logits) + b_in).numpy()
        return sgemm(1.0, w_out, activations.T, trans_a=1).T  # (T, H)

    return call


def no_onednn() -> str | None:
    """Why oneDNN's products are not to be had, or None."""
    if torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return None
    return "this torch was built without oneDNN"


def _no_mkl() -> str | None:
    if torch.backends.mkl.is_available() and hasattr(torch.ops.mkl, "_mkl_linear"):
        return None
    return "this torch was built without MKL"


_BLAS: dict[str, Any] = {
    "layer": "ff", "devices": ("cpu",), "dtypes": ("float32",), "directions": ("forward",),
    "convert": to_numpy, "restore": from_numpy,
}  # fmt: skip
_PACKED: dict[str, Any] = {"layer": "ff", "level": 3, "devices": ("cpu",), "directions": ("forward",), "copies": 1.0}
_TF32: dict[str, Any] = {"layer": "ff", "level": 3, "devices": ("cuda",), "dtypes": ("float32",), "tf32": True}

DENSE = (
    Implementation(
        name="blas-dot-axpy", level=1, prepare=blas_level_1, per_token=True, own_threads=True, copies=0.5,
        about="BLAS Level 1: a dot and an axpy per neuron and token", **_BLAS,
    ),
    Implementation(
        name="blas-gemv", level=2, prepare=blas_level_2, per_token=True, own_threads=True, copies=0.5,
        about="BLAS Level 2: matrix-vector products per token", **_BLAS,
    ),
    Implementation(
        name="blas-gemm", level=3, prepare=blas_level_3, about="BLAS Level 3: matrix-matrix products", **_BLAS
    ),
    Implementation(
        name="torch-eager", layer="ff", level=3, prepare=eager, about="torch Linear-GELU-Linear as it comes"
    ),
    Implementation(
        name="torch-compiled", layer="ff", level=3, prepare=compiled, missing=no_compiler, compiles=True,
        about="the same through torch.compile",
    ),
    Implementation(
        name="torch-autotuned", layer="ff", level=3, prepare=autotuned, missing=no_compiler, compiles=True,
        default_on=("cuda",),
        about="the same through torch.compile with max-autotune (minutes of compilation)",
    ),
    Implementation(
        name="torch-eager-tf32", prepare=eager_tf32, about="torch-eager with TF32 products", **_TF32
    ),
    Implementation(
        name="torch-compiled-tf32", prepare=compiled_tf32, missing=no_compiler, compiles=True,
        about="torch-compiled with TF32 products", **_TF32,
    ),
    Implementation(
        name="torch-autotuned-tf32", prepare=autotuned_tf32, missing=no_compiler, compiles=True,
        about="torch-autotuned with TF32 products", **_TF32,
    ),
    Implementation(
        name="onednn-prepacked", prepare=onednn_prepacked, missing=no_onednn,
        about="oneDNN with weights packed ahead and GELU fused", **_PACKED,
    ),
    Implementation(
        name="onednn-int8", prepare=onednn_int8, missing=no_onednn, dtypes=(INT8,),
        about="oneDNN with products of 8 bits, rows quantised by our kernels", **_PACKED,
    ),
    Implementation(
        name="mkl-prepacked", prepare=mkl_prepacked, missing=_no_mkl, dtypes=("float32",),
        about="MKL with weights packed ahead", **_PACKED,
    ),
    Implementation(
        name="torch-bmm", layer="ff", prepare=batched_gather, per_token=True, directions=("forward",),
        about="the paper's batched formulation: one batched product over the tokens",
    ),
    Implementation(
        name="path-eager", layer="ff", level=3, role="control", prepare=eager,
        about="control: a dense layer of one path's neurons only, torch as it comes",
    ),
    Implementation(
        name="path-onednn", role="control", prepare=onednn_prepacked, missing=no_onednn,
        about="control: the same by oneDNN with weights packed ahead", **_PACKED,
    ),
)  # fmt: skip
