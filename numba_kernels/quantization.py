"""bfloat16 numbers to unsigned bytes, for 8-bit matrix products."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compilation import kernel
from .products import row_loop
from .vectors import BYTE, I32, Storage, declare, fused, splat

__all__ = ["ZERO", "quantize"]

ZERO = 128
"""The byte that stands for 0."""

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
def quantize(like: Any, x_at: int, result_at: int, scale: Any, start: int, stop: int) -> None:
    """result[i] = round(x[i] * scale) + 128 for `start` <= i < `stop`; |x[i] * scale| must not exceed 127."""
    _quantize(like, x_at + start * like.itemsize, result_at + start, stop - start, scale)
