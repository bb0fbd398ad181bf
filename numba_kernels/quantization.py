"""What stands around 8-bit matrix products: bfloat16 rows to unsigned bytes, and the products' scales.

Each row has a scale of its own, so that what a token becomes does not depend on those that come with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, types  # type: ignore[attr-defined,unused-ignore]
from numba.extending import intrinsic

from .activation import gelu_into
from .compilation import kernel
from .vectors import BYTE, I32, Storage, declare, fused, pointer_to, row_loop, splat

__all__ = ["ZERO", "finish_rows", "quantize_rows"]

ZERO = 128
"""The byte that stands for 0."""
SMALLEST = np.float32(1e-30)
"""A row none of whose numbers is larger counts as zeros."""

# Numba hands the first parameter, the typing context, in by itself.
_intrinsic: Any = intrinsic


@_intrinsic
def _quantize(typingctx: Any, like: Any, x_at: Any, result_at: Any, count: Any, scale: Any) -> Any:
    storage = Storage(like)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, x_address, result_address, length, factor = args
        x = builder.inttoptr(x_address, BYTE.as_pointer())
        result = builder.inttoptr(result_address, BYTE.as_pointer())
        factors = splat(builder, factor, storage.lanes)
        # Conversion cuts off what is behind the point, and all sums are positive: the half makes it rounding.
        offsets = splat(builder, ir.Constant(storage.scalar, ZERO + 0.5), storage.lanes)

        # C: for (item = 0; item < count; item++) result[item] = (uint8_t)(int)fmaf(x[item], scale, 128.5f);
        def body(item: Any, _: list[Any], masked: bool) -> list[Any]:
            mask = storage.mask(builder, builder.sub(length, item)) if masked else None
            numbers = fused(builder, storage.load(builder, x, item, mask), factors, offsets)
            whole = builder.fptosi(numbers, ir.VectorType(I32, storage.lanes))
            stored = ir.VectorType(BYTE, storage.lanes)
            values = builder.trunc(whole, stored)
            at = builder.bitcast(builder.gep(result, [item]), stored.as_pointer())
            if mask is None:
                builder.store(values, at).align = 1
            else:
                parameters = [stored, at.type, I32, mask.type]
                store = declare(builder, f"llvm.masked.store.v{storage.lanes}i8.p0", ir.VoidType(), parameters)
                builder.call(store, [values, at, ir.Constant(I32, 1), mask])
            return []

        row_loop(builder, length, storage.lanes, [], body)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 3, types.float32), generate


@kernel
def quantize_rows(
    like: Any, like_scales: Any, x_at: int, result_at: int, scales_at: int, columns: int, start: int, stop: int
) -> None:
    """Rows `start` to `stop`: result = round(x / scale) + 128, where scale = max|x| / 127 of that row is written too.

    A row with a NaN or an infinity has a scale of NaN, and bytes that say nothing.
    """
    x = carray(pointer_to(x_at, like), (stop, columns))
    scales = carray(pointer_to(scales_at, like_scales), stop)
    bits_i = np.empty(1, np.uint32)
    number_i = bits_i.view(np.float32)
    for i in range(start, stop):
        largest = np.uint16(0)
        row = x[i]
        for j in range(columns):  # without their signs, numbers are ordered as their bits are
            largest = max(largest, row[j] & np.uint16(0x7FFF))
        bits_i[0] = np.uint32(largest) << 16
        finite = largest < 0x7F80
        scales[i] = number_i[0] * np.float32(1 / 127) if finite else np.float32(np.nan)
        # Of numbers so small that their factor would overflow nothing is left.
        factor = np.float32(127) / number_i[0] if finite and number_i[0] > SMALLEST else np.float32(0)
        _quantize(like, x_at + i * columns * like.itemsize, result_at + i * columns, columns, factor)


@kernel
def finish_rows(
    like: Any, like_scales: Any, addresses: Any, columns: int, has_bias: bool, gelu: bool, adds: bool,
    start: int, stop: int,
) -> None:  # fmt: skip
    """Rows `start` to `stop` of y, in place: y = gelu(y * scale of the row + bias) + residual; all but the scale if so.

    `addresses` are those of y, the scales (float32), the bias (float32) and the residual; y and the residual are
    bfloat16, whose bits `like` holds.
    """
    y_at, scales_at, bias_at, residual_at = addresses
    y = carray(pointer_to(y_at, like), (stop, columns))
    scales = carray(pointer_to(scales_at, like_scales), stop)
    bias = carray(pointer_to(bias_at, like_scales), columns if has_bias else 0)
    residual = carray(pointer_to(residual_at, like), (stop if adds else 0, columns))
    bits_j = np.empty(columns, np.uint32)
    number_j = bits_j.view(np.float32)
    activation_j = np.empty(columns if gelu else 0, np.float32)
    other_bits_j = np.empty(columns if adds else 0, np.uint32)
    other_j = other_bits_j.view(np.float32)
    for i in range(start, stop):
        scale = scales[i]
        for j in range(columns):
            bits_j[j] = np.uint32(y[i, j]) << np.uint32(16)
        if has_bias:
            for j in range(columns):
                number_j[j] = number_j[j] * scale + bias[j]
        else:
            for j in range(columns):
                number_j[j] *= scale
        if gelu:
            gelu_into(number_j, activation_j)  # in place it would be no vector code
            number_j[:] = activation_j
        if adds:
            for j in range(columns):
                other_bits_j[j] = np.uint32(residual[i, j]) << np.uint32(16)
            for j in range(columns):
                number_j[j] += other_j[j]
        for j in range(columns):  # to nearest, ties to even; a NaN is kept one
            b = bits_j[j]
            rounded = (b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
            nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
            y[i, j] = np.uint16(0x7FC0) if nan else np.uint16(rounded)
