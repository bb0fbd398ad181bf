"""Dot products of rows of bfloat16 that the processor multiplies in pairs (AVX-512 BF16, `vdpbf16ps`).

Two numbers at a time are multiplied and added up in float32 by one instruction, and nothing is widened: a third of the
instructions. Numbers too small to be normal count as zeros. To add rows up the same way, two of them interleaved,
gained little and lost a little elsewhere: what bounds that is where rows come from.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .vectors import BYTE, I32, I64, VECTOR_BYTES, BFloat, added, declare, row_loop, splat, store_sums

__all__ = ["pair_dots"]

SUMS_COUNT = VECTOR_BYTES // 4
NUMBERS = VECTOR_BYTES // 2
SUMS = ir.VectorType(ir.FloatType(), SUMS_COUNT)
WORDS = ir.VectorType(ir.IntType(16), NUMBERS)
STORED = ir.VectorType(BFloat(), NUMBERS)
RUNNING_SUMS = 2


def _load(builder: Any, base: Any, item: Any, length: Any, *, masked: bool) -> Any:
    """32 numbers from `item` on; those behind the row's end are 0."""
    at = builder.bitcast(builder.gep(base, [builder.mul(item, ir.Constant(I64, 2))]), WORDS.as_pointer())
    if not masked:
        return builder.bitcast(builder.load(at, align=2), STORED)
    lane = ir.Constant(ir.VectorType(I64, NUMBERS), [ir.Constant(I64, i) for i in range(NUMBERS)])
    mask = builder.icmp_signed("<", lane, splat(builder, builder.sub(length, item), NUMBERS))
    load = declare(builder, f"llvm.masked.load.v{NUMBERS}i16.p0", WORDS, [at.type, I32, mask.type, WORDS])
    value = builder.call(load, [at, ir.Constant(I32, 2), mask, ir.Constant(WORDS, [0] * NUMBERS)])
    return builder.bitcast(value, STORED)


def pair_dots(cells: list[tuple[int, int]], rows: int, tokens: int) -> Any:
    """What `products._dots` is for bfloat16: dots(like, xs, ws, hidden, out) of the (row, token) pairs in `cells`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, xs_at, ws_at, length, out_at = args
        x = [builder.inttoptr(builder.extract_value(xs_at, i), BYTE.as_pointer()) for i in range(tokens)]
        w = [builder.inttoptr(builder.extract_value(ws_at, i), BYTE.as_pointer()) for i in range(rows)]
        multiply = declare(builder, "llvm.x86.avx512bf16.dpbf16ps.512", SUMS, [SUMS, STORED, STORED])

        # C, where sums[2][16] of each cell start at 0:
        #    for (i = 0; i < hidden; i++) sums[cell][i / 32 % 2][i % 32 / 2] += x[token][i] * w[row][i];
        #    out[cell] = sum_lanes(sums[cell][0] + sums[cell][1]);
        def body(item: Any, sums: list[Any], masked: bool) -> list[Any]:
            updated = list(sums)
            for k in range(RUNNING_SUMS):
                at = builder.add(item, ir.Constant(I64, k * NUMBERS))
                w_vectors = [_load(builder, row, at, length, masked=masked) for row in w]
                x_vectors = [_load(builder, row, at, length, masked=masked) for row in x]
                for cell, (row, token) in enumerate(cells):
                    place = cell * RUNNING_SUMS + k
                    updated[place] = builder.call(multiply, [sums[place], x_vectors[token], w_vectors[row]])
            return updated

        start = [ir.Constant(SUMS, [0.0] * SUMS_COUNT)] * (len(cells) * RUNNING_SUMS)
        sums, _ = row_loop(builder, length, RUNNING_SUMS * NUMBERS, start, body)
        out = builder.inttoptr(out_at, ir.FloatType().as_pointer())
        store_sums(builder, [added(builder, *sums[2 * cell : 2 * cell + 2]) for cell in range(len(cells))], out)
        return context.get_dummy_value()

    return generate
