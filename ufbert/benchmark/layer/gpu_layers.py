"""The paper's own GPU kernel as a baseline, and what a GPU's layers need to be there."""

from __future__ import annotations

import torch

from ufbert.cmm.operator import load_backend

from .implementations import Function, Situation
from .operands import TreeWeights

__all__ = ["naive", "no_gpu_kernels", "no_kernels_on"]

DTYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def naive(weights: TreeWeights, situation: Situation) -> Function:
    """One thread to a token, as the paper's kernel; float32 sums."""
    from ufbert.cuda import naive as kernel

    trees, nodes, hidden = weights.w_in.shape
    dtype = weights.w_in.dtype
    addresses = {name: getattr(weights, name).data_ptr() for name in ("w_in", "b_in", "w_out")}
    sizes = {"hidden": hidden, "trees": trees, "depth": nodes.bit_length() - 1}

    def call(x: torch.Tensor) -> torch.Tensor:
        y = torch.empty_like(x)
        sums = y if dtype == torch.float32 else torch.empty_like(x, dtype=torch.float32)
        layout, launches = kernel.forward_launches(
            x=x.data_ptr(), y=y.data_ptr(), sums=sums.data_ptr(), tokens=x.shape[0], dtype=DTYPES[dtype],
            **addresses, **sizes,
        )  # fmt: skip
        with torch.cuda.device(x.device):
            kernel.run(layout, launches, x.get_device(), torch.cuda.current_stream(x.device).cuda_stream)
        return y

    return call


def no_gpu_kernels() -> str | None:
    """Why kernels cannot be compiled for and launched on the first GPU, or None."""
    from ufbert.cuda import machine

    return machine.availability(0)


def no_kernels_on(device: torch.device) -> str | None:
    """Why our layer would not run its own kernels on `device`: torch's masked product must not pass for them."""
    return load_backend("cuda").unavailable(device) if device.type == "cuda" else None
