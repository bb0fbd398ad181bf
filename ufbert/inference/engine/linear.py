"""Linear layers for inference on a CPU, by oneDNN with weights laid out ahead.

`torch.nn.Linear` lays float32 weights out anew in each call, or goes to a BLAS that knows less of the processor:
on a Zen 5 core (128 tokens, 768 to 2,304) it takes 2.4 times as long in float32 and 1.15 times in bfloat16. These
operators also give a row the same bits whatever rows come with it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Int8Linear", "PackedLinear", "fuses", "largest_weight", "multiplied_as", "multiplies_bytes", "packs"]

# The layout does not depend on it here; oneDNN wants an idea of the number of rows.
EXPECTED_ROWS = 1024


def packs() -> bool:
    """Whether this torch has oneDNN's operators."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def multiplied_as(dtype: torch.dtype) -> torch.dtype:
    """What oneDNN multiplies for operands of `dtype`: float32 for bfloat16 where the processor has none of its kind."""
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.float32
    return dtype


def multiplies_bytes() -> bool:
    """Whether the processor has the instruction that the trees' kernels of 8 bits are made of."""
    return bool(torch.cpu.get_capabilities().get("avx512_vnni"))


def largest_weight() -> int:
    """The largest 8-bit weight whose products with unsigned bytes the processor adds up without overflow.

    x86 without VNNI or AMX adds pairs of them up in 16 bits, where 2 * 255 * 127 is cut off in silence.
    """
    capabilities = torch.cpu.get_capabilities()
    exact = any(capabilities.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))
    return 127 if exact or capabilities.get("architecture") != "x86_64" else 63


def fuses() -> bool:
    """Whether oneDNN should take GELU and the residual along with a product.

    With AVX2 alone it evaluates them slowly: on a Zen 3 core, after a product of 1,536 neurons, GELU takes 8 us a token
    inside and 1.4 after it; a residual of 384 values, with 64 neurons, 0.4 us inside and 0.1 after it.
    """
    return torch.backends.cpu.get_cpu_capability() != "AVX2"


class PackedLinear(nn.Module):
    """x (..., in) -> (..., out) in float32 or bfloat16, with a GELU or the addition of a residual built in.

    Where the processor knows no bfloat16, the rounded weights are kept and multiplied in float32.
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, dtype: torch.dtype) -> None:
        """weight (out, in), bias (out,)."""
        super().__init__()
        self.dtype = dtype
        self.inner = multiplied_as(dtype) if packs() else dtype
        self.fuses = fuses()
        self.weight = weight.detach().to(dtype).to(self.inner)
        self.bias = None if bias is None else bias.detach().to(dtype).to(self.inner)
        if packs():
            with torch.inference_mode(False), torch.no_grad():
                # A clone, since a view of a memory-mapped file has no layout of its own to change.
                self.weight = torch.ops.mkldnn._reorder_linear_weight(self.weight.clone(), EXPECTED_ROWS)

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None, activation: str = "none") -> torch.Tensor:
        """`activation` is `none` or `gelu` (exact); a residual of the result's shape is added."""
        x = x.to(self.dtype)
        if not packs():
            plain = F.linear(x, self.weight, self.bias)
            plain = F.gelu(plain) if activation == "gelu" else plain
            return plain if residual is None else plain + residual
        rows = x.reshape(-1, x.shape[-1]).to(self.inner)
        y: torch.Tensor
        other = None if residual is None else residual.reshape(rows.shape[0], -1).to(self.inner)
        if self.fuses and other is not None:
            y = torch.ops.mkldnn._linear_pointwise.binary(rows, other, self.weight, self.bias, "add")
        else:
            inside = activation if self.fuses else "none"
            y = torch.ops.mkldnn._linear_pointwise(rows, self.weight, self.bias, inside, [], "none")
            y = F.gelu(y) if activation != inside else y
            y = y if other is None else y.add_(other)
        return y.to(self.dtype).reshape(*x.shape[:-1], y.shape[-1])


class Int8Linear(nn.Module):
    """Weights in 8 bits with a scale for each output, inputs in 8 bits with a scale for each row; bfloat16 out.

    Products are summed in 32 bits, so a row's result does not depend on the rows that come with it. Half
    the memory and, where the processor multiplies bytes, 1.6 times the speed of bfloat16.
    """

    ZERO = 128
    """What stands for 0 in the unsigned bytes that the processor's instruction takes."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        """weight (out, in), bias (out,)."""
        super().__init__()
        wide = weight.detach().float()
        self.scales = wide.abs().amax(1).clamp_min(1e-12) / largest_weight()
        # oneDNN has no fast product into bfloat16 for a processor that does not know it: that takes seconds.
        self.inner = multiplied_as(torch.bfloat16)
        rounded = (wide / self.scales[:, None]).round().to(torch.int8)
        with torch.inference_mode(False), torch.no_grad():
            self.weight = torch.ops.onednn.qlinear_prepack(rounded, [EXPECTED_ROWS, weight.shape[1]])
        self.zeros = torch.zeros(weight.shape[0], dtype=torch.int32)
        self.bias = None if bias is None else bias.detach().float()

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None, activation: str = "none") -> torch.Tensor:
        """As `PackedLinear`."""
        from ufbert import numba_kernels  # a fifth of a second that dense float32 layers need not wait

        rows = x.reshape(-1, x.shape[-1])
        whole, scales = quantized(rows)
        y: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, self.ZERO, self.weight, self.scales, self.zeros, None,
            1.0, 0, self.inner, "none", [], "none",
        ).to(torch.bfloat16)  # fmt: skip
        added = None if residual is None else residual.reshape(y.shape).contiguous()
        addresses = y.data_ptr(), scales.data_ptr(), _address(self.bias), _address(added)
        numba_kernels.finish_rows_at(addresses, y.shape[0], y.shape[1], activation == "gelu", torch.get_num_threads())
        return y.reshape(*x.shape[:-1], y.shape[-1])


def quantized(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x (rows, columns) in bfloat16 -> bytes, x over its row's scale rounded plus 128, and the scales (rows,)."""
    from ufbert import numba_kernels

    x = x.contiguous()
    result = torch.empty(x.shape, dtype=torch.uint8)
    scales = torch.empty(len(x), dtype=torch.float32)
    rows, columns = x.shape
    numba_kernels.quantize_rows_at(
        x.data_ptr(), result.data_ptr(), scales.data_ptr(), rows, columns, torch.get_num_threads()
    )
    return result, scales


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
