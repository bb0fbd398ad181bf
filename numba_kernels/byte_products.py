"""The two products of the walk on rows of bytes: dot products, and weighted sums.

Four bytes at a time are multiplied and added up in 32 bits, by one instruction where the processor has it (AVX-512
VNNI, `vpdpbusd`). One of its factors is unsigned, so weights are bytes from 1 to 255 with 128 for 0, which the other
factor's sum times 128 makes good. The other factor has 15 bits in two signed bytes, 128 * high + low, and two
products: with 8 bits for weights alone a layer errs half as much as with 8 bits for everything, and rows are read once.

Integers have no rounding: sums of any order, on any processor, are the same. They are bounded so that they fit into 32
bits, and what wraps around on the way there comes back.

A row of weights has `width` bytes, its numbers and zeros up to a multiple of 64; a token has a row of its numbers'
high bytes, then one of the low ones. Of each 64 numbers, byte 16 i + 4 j + k is number 16 j + 4 i + k: so they come out
of the instructions that narrow vectors, and go into those that interleave rows, without being put in order.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .vectors import BYTE, I32, I64, VECTOR_BYTES, Storage, declare, fused, has_feature, row_loop, splat

__all__ = [
    "HIGH", "add_byte_rows", "byte_dots_4x1", "byte_dots_pairwise_4", "largest_size", "most_of_sum", "split_row",
]  # fmt: skip

HIGH = 128
"""What a high byte counts, and the unsigned byte that stands for 0."""

BYTES = ir.VectorType(BYTE, VECTOR_BYTES)
WORDS = ir.VectorType(ir.IntType(16), VECTOR_BYTES // 2)
INTEGERS = ir.VectorType(I32, VECTOR_BYTES // 4)
LANES = VECTOR_BYTES // 4
# Vectors of columns that stand in registers while the rows pass.
LARGE_PIECE, SMALL_PIECE = 2, 1

# Numba hands the first parameter, the typing context, in by itself.
_intrinsic: Any = intrinsic


def most_of_sum(terms: int) -> int:
    """The largest number in two bytes of which `terms`, each times a byte of +-127, fit into 32 bits."""
    return min(HIGH * 127, (2**31 - 1) // (127 * terms))


def _shuffled(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(places)), places))


def _sums_of_products(builder: Any, sums: Any, unsigned: Any, signed: Any) -> Any:
    """`sums` (16 int32) plus the products of 64 unsigned and 64 signed bytes, four to a sum."""
    # C: for (i = 0; i < 64; i++) sums[i / 4] += unsigned[i] * signed[i];
    if has_feature("avx512vnni"):
        function = declare(builder, "llvm.x86.avx512.vpdpbusd.512", INTEGERS, [INTEGERS] * 3)
        return builder.call(function, [sums, builder.bitcast(unsigned, INTEGERS), builder.bitcast(signed, INTEGERS)])
    wide = ir.VectorType(I32, VECTOR_BYTES)
    products = builder.mul(builder.zext(builder.bitcast(unsigned, BYTES), wide), builder.sext(signed, wide))
    for k in range(4):
        fourth = _shuffled(builder, products, ir.Constant(wide, ir.Undefined), list(range(k, VECTOR_BYTES, 4)))
        sums = builder.add(sums, fourth)
    return sums


def _load(builder: Any, base: Any, item: Any, vector: Any = BYTES) -> Any:
    return builder.load(builder.bitcast(builder.gep(base, [item]), vector.as_pointer()), align=1)


def _number(builder: Any, base: Any, item: Any, kind: Any) -> Any:
    return builder.load(builder.bitcast(builder.gep(base, [item]), kind.as_pointer()), align=4)


def _integers(number: int) -> Any:
    return ir.Constant(INTEGERS, [number] * LANES)


def _byte_dots(tokens: int) -> Any:
    """An intrinsic `dots(xs, ws, width, out)` of four rows of weights with a token each, or all with one.

    `xs` and `ws` are tuples of addresses; the four sums (int32) of unsigned bytes and numbers go to the address `out`.
    """

    @_intrinsic
    def dots(typingctx: Any, xs: Any, ws: Any, width: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            xs_at, ws_at, length, out_at = args
            x = [builder.inttoptr(builder.extract_value(xs_at, i), BYTE.as_pointer()) for i in range(tokens)]
            w = [builder.inttoptr(builder.extract_value(ws_at, i), BYTE.as_pointer()) for i in range(4)]

            # C: for (i = 0; i < width; i++) { high += w[i] * x[i]; low += w[i] * x[width + i]; }
            #    *out = 128 * high + low;
            def body(item: Any, sums: list[Any], masked: bool) -> list[Any]:
                low_item = builder.add(item, length)
                parts = [(_load(builder, row, item), _load(builder, row, low_item)) for row in x]
                updated = []
                for cell, row in enumerate(w):
                    weights = _load(builder, row, item)
                    for k, part in enumerate(parts[cell % tokens]):
                        updated.append(_sums_of_products(builder, sums[2 * cell + k], weights, part))
                return updated

            sums, _ = row_loop(builder, length, VECTOR_BYTES, [_integers(0)] * 8, body, rest=False)
            totals = [builder.add(builder.shl(sums[2 * i], _integers(7)), sums[2 * i + 1]) for i in range(4)]
            # The four are added up together: sums of neighbours stand by turns, then four by four.
            pairs = [_added_by_turns(builder, totals[i], totals[i + 1], unit=1) for i in (0, 2)]
            total = _added_by_turns(builder, pairs[0], pairs[1], unit=2)
            while total.type.count > 4:
                half = total.type.count // 2
                nothing = ir.Constant(total.type, ir.Undefined)
                total = builder.add(*(_shuffled(builder, total, nothing, list(range(i, i + half))) for i in (0, half)))
            builder.store(total, builder.inttoptr(out_at, total.type.as_pointer())).align = 4
            return context.get_dummy_value()

        return types.void(xs, ws, types.intp, types.intp), generate

    return dots


def _added_by_turns(builder: Any, a: Any, b: Any, *, unit: int) -> Any:
    """Of each four lanes, the sums of a's halves and of b's by turns, `unit` lanes at a time."""
    lower: list[int] = []
    upper: list[int] = []
    for block in range(0, LANES, 4):
        for places, start in ((lower, 0), (upper, 2)):
            for i in range(0, 2, unit):
                for other in (0, LANES):
                    places += [other + block + start + i + j for j in range(unit)]
    return builder.add(_shuffled(builder, a, b, lower), _shuffled(builder, a, b, upper))


byte_dots_4x1 = _byte_dots(1)
byte_dots_pairwise_4 = _byte_dots(4)


@_intrinsic
def largest_size(typingctx: Any, like: Any, x_at: Any, count: Any) -> Any:
    """The largest |x| of `count` in the storage of `like` (float32 or narrower), a NaN being larger than any number."""
    storage = Storage(like)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, x_address, length = args
        x = builder.inttoptr(x_address, BYTE.as_pointer())

        def larger(a: Any, b: Any) -> Any:
            return builder.select(builder.icmp_signed(">", a, b), a, b)

        # C: for (item = 0; item < count; item++) largest = max(largest, bits_of(x[item]) & 0x7fffffff);
        def body(item: Any, running: list[Any], masked: bool) -> list[Any]:
            updated = []
            for vector, largest in zip(_four(builder, storage, x, item, length, masked), running, strict=True):
                # Without their signs, numbers are ordered as their bits are.
                size = builder.and_(builder.bitcast(vector, INTEGERS), _integers(0x7FFFFFFF))
                updated.append(larger(size, largest))
            return updated

        (a, b, c, d), _ = row_loop(builder, length, VECTOR_BYTES, [_integers(0)] * 4, body)
        reduce = declare(builder, f"llvm.vector.reduce.smax.v{LANES}i32", I32, [INTEGERS])
        return builder.bitcast(builder.call(reduce, [larger(larger(a, b), larger(c, d))]), ir.FloatType())

    return types.float32(like, types.intp, types.intp), generate


def _four(builder: Any, storage: Storage, x: Any, item: Any, length: Any, masked: bool) -> list[Any]:
    """64 numbers from `item` on; those behind the row's end are 0."""
    vectors = []
    for k in range(4):
        at = builder.add(item, ir.Constant(I64, k * LANES))
        mask = storage.mask(builder, builder.sub(length, at)) if masked else None
        vectors.append(storage.load(builder, x, at, mask))
    return vectors


def _narrowed(builder: Any, parts: list[Any]) -> Any:
    """Four vectors of small int32 as 64 bytes, of which each sixteen hold four numbers of each vector."""

    # C: for (i = 0; i < 64; i++) bytes[i] = parts[i / 4 % 4][4 * (i / 16) + i % 4];
    def joined(a: Any, b: Any, name: str, narrow: Any) -> Any:
        if has_feature("avx512bw"):
            return builder.call(declare(builder, f"llvm.x86.avx512.{name}.512", narrow, [a.type, b.type]), [a, b])
        half = ir.VectorType(narrow.element, a.type.count)
        block = a.type.count // 4
        places = [
            i + start + other
            for start in range(0, 4 * block, block)
            for other in (0, a.type.count)
            for i in range(block)
        ]
        return _shuffled(builder, builder.trunc(a, half), builder.trunc(b, half), places)

    pairs = [joined(parts[i], parts[i + 1], "packssdw", WORDS) for i in (0, 2)]
    return joined(pairs[0], pairs[1], "packsswb", BYTES)


@_intrinsic
def split_row(typingctx: Any, like: Any, x_at: Any, row_at: Any, count: Any, width: Any, factor: Any) -> Any:
    """The numbers round(x * factor) of `count` x in the storage of `like` as a token's rows; returns their sum."""
    storage = Storage(like)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, x_address, row_address, length, row_width, scale = args
        x = builder.inttoptr(x_address, BYTE.as_pointer())
        high_row = builder.inttoptr(row_address, BYTE.as_pointer())
        low_row = builder.gep(high_row, [row_width])
        factors = splat(builder, scale, LANES)
        # Conversion cuts off what is behind the point, and all sums are positive: the half makes it rounding.
        offset = 1 << 15
        offsets = splat(builder, ir.Constant(ir.FloatType(), offset + 0.5), LANES)

        # C: for (item = 0; item < count; item++) {
        #        number = (int)fmaf(x[item], factor, 32768.5f) - 32768;
        #        high[item] = (number + 64) >> 7; low[item] = number - 128 * high[item]; sum += number;
        #    }
        def body(item: Any, running: list[Any], masked: bool) -> list[Any]:
            highs, lows, updated = [], [], []
            for vector, total in zip(_four(builder, storage, x, item, length, masked), running, strict=True):
                numbers = fused(builder, vector, factors, offsets)
                whole = builder.sub(builder.fptosi(numbers, INTEGERS), _integers(offset))
                highs.append(builder.ashr(builder.add(whole, _integers(64)), _integers(7)))
                lows.append(builder.sub(whole, builder.shl(highs[-1], _integers(7))))
                updated.append(builder.add(total, whole))
            for row, parts in ((high_row, highs), (low_row, lows)):
                at = builder.bitcast(builder.gep(row, [item]), BYTES.as_pointer())
                builder.store(_narrowed(builder, parts), at).align = 1
            return updated

        (a, b, c, d), _ = row_loop(builder, length, VECTOR_BYTES, [_integers(0)] * 4, body)
        add = declare(builder, f"llvm.vector.reduce.add.v{LANES}i32", I32, [INTEGERS])
        return builder.call(add, [builder.add(builder.add(a, b), builder.add(c, d))])

    return types.int32(like, *[types.intp] * 4, types.float32), generate


def _by_fours(builder: Any, rows: list[Any]) -> list[Any]:
    """64 bytes of four rows -> four vectors of sixteen columns, in each four of whose bytes those of a column stand."""

    def halves(a: Any, b: Any, unit: Any) -> list[Any]:
        # Of each 16 bytes of a and b, the lower halves by turns, and the upper ones.
        a, b = builder.bitcast(a, unit), builder.bitcast(b, unit)
        block = unit.count // 4
        both = []
        for half in (0, block // 2):
            places = [
                start + half + i + other
                for start in range(0, unit.count, block)
                for i in range(block // 2)
                for other in (0, unit.count)
            ]
            both.append(_shuffled(builder, a, b, places))
        return both

    first, second = halves(rows[0], rows[1], BYTES), halves(rows[2], rows[3], BYTES)
    return [vector for a, b in zip(first, second, strict=True) for vector in halves(a, b, WORDS)]


@_intrinsic
def add_byte_rows(
    typingctx: Any, like: Any, rows_at: Any, highs_at: Any, lows_at: Any, groups: Any, hidden: Any,
    scale: Any, correction: Any, y_at: Any, residual_at: Any, bias_at: Any,
) -> Any:  # fmt: skip
    """y = scale * (sum of number * row - correction) + residual + bias, y and the residual in the storage of `like`.

    `rows_at` is the address of the rows' addresses, four to a group, `highs_at` and `lows_at` those of the
    numbers' bytes; the correction is 128 times the numbers' sum. `residual_at` and `bias_at` (float32) may be 0.
    """
    storage, plain = Storage(like), Storage(types.float32[:])

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, rows_address, highs_address, lows_address, count, length, factor, zero, *targets = args
        pointer = BYTE.as_pointer()
        addresses = builder.inttoptr(rows_address, I64.as_pointer())
        numbers = [builder.inttoptr(at, I32.as_pointer()) for at in (highs_address, lows_address)]
        y = builder.inttoptr(targets[0], pointer)
        # What is not given is read through a mask of zeros, at an address that exists: at 0 each such load takes the
        # processor 0.02 us.
        is_given = [builder.icmp_unsigned("!=", at, ir.Constant(I64, 0)) for at in targets[1:]]
        residual, bias = (
            builder.inttoptr(builder.select(there, at, targets[0]), pointer)
            for there, at in zip(is_given, targets[1:], strict=True)
        )
        given = [splat(builder, there, LANES) for there in is_given]
        factors, zeros = splat(builder, factor, LANES), splat(builder, zero, LANES)

        # C: for (item = 0; item < hidden; item++) {
        #        for (i = 0; i < 4 * groups; i++) { high += rows[i][item] * highs[i]; low += rows[i][item] * lows[i]; }
        #        y[item] = fmaf(128 * high + low - correction, scale, residual[item] + bias[item]);
        #    }
        def piece(item: Any, chunks: int, masked: bool) -> list[Any]:
            places = [builder.add(item, ir.Constant(I64, k * VECTOR_BYTES)) for k in range(chunks)]
            head, inner, end = (builder.function.append_basic_block(n) for n in ("groups", "group", "summed"))
            entry = builder.block
            builder.branch(head)
            builder.position_at_end(head)
            group = builder.phi(I64)
            group.add_incoming(ir.Constant(I64, 0), entry)
            sums = [builder.phi(INTEGERS) for _ in range(8 * chunks)]
            for phi in sums:
                phi.add_incoming(_integers(0), entry)
            builder.cbranch(builder.icmp_signed("<", group, count), inner, end)
            builder.position_at_end(inner)
            first = builder.mul(group, ir.Constant(I64, 4))
            rows = [
                builder.inttoptr(
                    builder.load(builder.gep(addresses, [builder.add(first, ir.Constant(I64, i))])), pointer
                )
                for i in range(4)
            ]
            parts = [
                builder.bitcast(splat(builder, builder.load(builder.gep(at, [group])), LANES), BYTES) for at in numbers
            ]
            updated = []
            for k, at in enumerate(places):
                for j, fours in enumerate(_by_fours(builder, [_load(builder, row, at) for row in rows])):
                    for i, part in enumerate(parts):
                        place = 8 * k + 2 * j + i
                        updated.append(_sums_of_products(builder, sums[place], fours, part))
            group.add_incoming(builder.add(group, ir.Constant(I64, 1)), builder.block)
            for phi, value in zip(sums, updated, strict=True):
                phi.add_incoming(value, builder.block)
            builder.branch(head)
            builder.position_at_end(end)
            for k, at in enumerate(places):
                totals = [
                    builder.sub(
                        builder.add(builder.shl(sums[8 * k + 2 * j], _integers(7)), sums[8 * k + 2 * j + 1]), zeros
                    )
                    for j in range(4)
                ]
                for j, total in enumerate(totals):
                    place = builder.add(at, ir.Constant(I64, j * LANES))
                    mask = storage.mask(builder, builder.sub(length, place)) if masked else None
                    own = [there if mask is None else builder.and_(there, mask) for there in given]
                    items = [builder.select(there, place, ir.Constant(I64, 0)) for there in is_given]
                    beside = builder.fadd(
                        storage.load(builder, residual, items[0], own[0]), plain.load(builder, bias, items[1], own[1])
                    )
                    value = fused(builder, builder.sitofp(total, storage.vector), factors, beside)
                    storage.store(builder, value, y, place, mask)
            return []

        def large(item: Any, _: list[Any], masked: bool) -> list[Any]:
            return piece(item, LARGE_PIECE, masked)

        def small(item: Any, _: list[Any], masked: bool) -> list[Any]:
            return piece(item, SMALL_PIECE, masked)

        _, reached = row_loop(builder, length, LARGE_PIECE * VECTOR_BYTES, [], large, rest=False)
        row_loop(builder, length, SMALL_PIECE * VECTOR_BYTES, [], small, reached)
        return context.get_dummy_value()

    parameters = [*[types.intp] * 5, types.float32, types.int32, *[types.intp] * 3]
    return types.void(like, *parameters), generate
