"""The two products every kernel is made of: dot products of rows, and weighted sums of rows.

Both are microkernels over addresses of rows. A dot product always runs in `RUNNING_SUMS` vectors, added up in
one order, whatever the tile it stands in: a token's logit does not depend on which tokens it is computed with.
Four running sums hide the latency of a fused multiply-add when a tile holds one product; a tile of several
shares loads. One row with four tokens then takes 8 ns a product of 768 on a core that needs 16 ns for a product
alone (both from the first-level cache).

Letters: R rows, T tokens.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .compilation import kernel
from .pair_products import pair_dots
from .records import Rows
from .vectors import BYTE, I64, Storage, added, fused, has_feature, row_loop, splat, store_sums

__all__ = ["dots_1x1", "dots_1x4", "dots_3x2", "dots_4x1", "dots_pairwise_4", "weighted_sum"]

RUNNING_SUMS = 4
# Numba hands the first parameter, the typing context, in by itself.
_intrinsic: Any = intrinsic


def _dots(cells: list[tuple[int, int]]) -> Any:
    """An intrinsic `dots(like, xs, ws, hidden, out)` of the (row, token) pairs in `cells`.

    `xs` and `ws` are tuples of addresses of rows of `hidden` numbers in the storage of `like`; the logits go,
    in the order of `cells`, to the float32 (or float64) array at the address `out`.
    """
    rows = 1 + max(row for row, _ in cells)
    tokens = 1 + max(token for _, token in cells)

    @_intrinsic
    def dots(typingctx: Any, like: Any, xs: Any, ws: Any, hidden: Any, out: Any) -> Any:
        signature = types.void(like, xs, ws, types.intp, types.intp)
        storage = Storage(like)
        if storage.narrow and has_feature("avx512bf16"):
            return signature, pair_dots(cells, rows, tokens)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, xs_at, ws_at, length, out_at = args
            pointer = BYTE.as_pointer()
            x = [builder.inttoptr(builder.extract_value(xs_at, i), pointer) for i in range(tokens)]
            w = [builder.inttoptr(builder.extract_value(ws_at, i), pointer) for i in range(rows)]

            # C, where sums[4][LANES] of each cell start at 0 and lanes behind the row's end read 0:
            #    for (item = 0; item < hidden; item += 4 * LANES)
            #        for (k = 0; k < 4; k++)
            #            for (cell = 0; cell < cells; cell++)
            #                for (lane = 0; lane < LANES; lane++) {
            #                    i = item + k * LANES + lane;
            #                    sums[cell][k][lane] = fmaf(x[token][i], w[row][i], sums[cell][k][lane]);
            #                }
            #    out[cell] = sum_lanes((sums[cell][0] + sums[cell][2]) + (sums[cell][1] + sums[cell][3]));
            def body(item: Any, sums: list[Any], masked: bool) -> list[Any]:
                updated = list(sums)
                for k in range(RUNNING_SUMS):
                    at = builder.add(item, ir.Constant(I64, k * storage.lanes))
                    mask = storage.mask(builder, builder.sub(length, at)) if masked else None
                    w_vectors = [storage.load(builder, row, at, mask) for row in w]
                    x_vectors = [storage.load(builder, row, at, mask) for row in x]
                    for cell, (row, token) in enumerate(cells):
                        place = cell * RUNNING_SUMS + k
                        updated[place] = fused(builder, x_vectors[token], w_vectors[row], sums[place])
                return updated

            start = [storage.zero()] * (len(cells) * RUNNING_SUMS)
            sums, _ = row_loop(builder, length, RUNNING_SUMS * storage.lanes, start, body)
            totals = []
            for cell in range(len(cells)):
                a, b, c, d = sums[cell * RUNNING_SUMS : (cell + 1) * RUNNING_SUMS]
                totals.append(added(builder, added(builder, a, c), added(builder, b, d)))
            store_sums(builder, totals, builder.inttoptr(out_at, storage.scalar.as_pointer()))
            return context.get_dummy_value()

        return signature, generate

    return dots


dots_1x1 = _dots([(0, 0)])
dots_1x4 = _dots([(0, token) for token in range(4)])
dots_4x1 = _dots([(row, 0) for row in range(4)])
# A node and its two children with two tokens; a token's three logits stand together.
dots_3x2 = _dots([(row, token) for token in range(2) for row in range(3)])
# Four tokens, each with a row of its own.
dots_pairwise_4 = _dots([(i, i) for i in range(4)])


# Vectors of sums that stand in registers while a piece of every row passes: four pieces of 768 float32 (8 or 16 are
# slower by 5 %), and what is left in smaller ones.
LARGE_PIECE, SMALL_PIECE = 12, 4


def _weighted_rows(*, first: bool, stream: bool) -> Any:
    """An intrinsic `add(like, like_y, rows_at, weights_at, rows, hidden, y_at)`: y (+)= sum of weight * row.

    `rows_at` is the address of `rows` addresses, at least one, `weights_at` that of as many float32 (or float64);
    rows lie in the storage of `like`, y in that of `like_y`. `first` writes y, else it is added to.
    """

    @_intrinsic
    def add(
        typingctx: Any, like: Any, like_y: Any, rows_at: Any, weights_at: Any, rows: Any, hidden: Any, y_at: Any
    ) -> Any:
        storage, target = Storage(like), Storage(like_y)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, _, rows_address, weights_address, count, length, y_address = args
            addresses = builder.inttoptr(rows_address, I64.as_pointer())
            numbers = builder.inttoptr(weights_address, storage.scalar.as_pointer())
            y = builder.inttoptr(y_address, BYTE.as_pointer())
            one = ir.Constant(I64, 1)

            # C, where LANES * 12 sums at a time, then LANES * 4, stand in registers:
            #    for (item = 0; item < hidden; item++) {
            #        sum = first ? weights[0] * rows[0][item] : y[item];
            #        for (i = first; i < count; i++) sum = fmaf(weights[i], rows[i][item], sum);
            #        y[item] = sum;
            #    }
            def piece(item: Any, vectors_in_piece: int, masked: bool) -> list[Any]:
                places = [builder.add(item, ir.Constant(I64, k * storage.lanes)) for k in range(vectors_in_piece)]
                masks = [storage.mask(builder, builder.sub(length, at)) if masked else None for at in places]

                def weighted(i: Any, sums: Any) -> list[Any]:
                    row = builder.inttoptr(builder.load(builder.gep(addresses, [i])), BYTE.as_pointer())
                    weight = splat(builder, builder.load(builder.gep(numbers, [i])), storage.lanes)
                    vectors = [storage.load(builder, row, at, mask) for at, mask in zip(places, masks, strict=True)]
                    if sums is None:
                        return [builder.fmul(weight, vector) for vector in vectors]
                    return [fused(builder, weight, vector, total) for vector, total in zip(vectors, sums, strict=True)]

                if first:
                    start = weighted(ir.Constant(I64, 0), None)
                else:
                    start = [target.load(builder, y, at, mask) for at, mask in zip(places, masks, strict=True)]
                head, inner, end = (builder.function.append_basic_block(n) for n in ("rows", "row", "summed"))
                entry = builder.block
                builder.branch(head)
                builder.position_at_end(head)
                i = builder.phi(I64)
                i.add_incoming(ir.Constant(I64, 1 if first else 0), entry)
                sums = [builder.phi(value.type) for value in start]
                for phi, value in zip(sums, start, strict=True):
                    phi.add_incoming(value, entry)
                builder.cbranch(builder.icmp_signed("<", i, count), inner, end)
                builder.position_at_end(inner)
                updated = weighted(i, sums)
                i.add_incoming(builder.add(i, one), builder.block)
                for phi, value in zip(sums, updated, strict=True):
                    phi.add_incoming(value, builder.block)
                builder.branch(head)
                builder.position_at_end(end)
                for total, at, mask in zip(sums, places, masks, strict=True):
                    target.store(builder, total, y, at, mask, stream)
                return []

            def large(item: Any, _: list[Any], masked: bool) -> list[Any]:
                return piece(item, LARGE_PIECE, masked)

            def small(item: Any, _: list[Any], masked: bool) -> list[Any]:
                return piece(item, SMALL_PIECE, masked)

            _, reached = row_loop(builder, length, LARGE_PIECE * storage.lanes, [], large, rest=False)
            row_loop(builder, length, SMALL_PIECE * storage.lanes, [], small, reached)
            return context.get_dummy_value()

        return types.void(like, like_y, *[types.intp] * 5), generate

    return add


write_rows = _weighted_rows(first=True, stream=False)
add_rows = _weighted_rows(first=False, stream=False)
stream_rows = _weighted_rows(first=True, stream=True)


@kernel
def weighted_sum(like: Any, like_y: Any, rows: Rows, y_at: int, first: bool, stream: bool) -> None:
    """y (+)= sum of weight * row; rows lie in the storage of `like`, y in that of `like_y` at the address `y_at`.

    `first` writes y, else it is added to; `stream` writes it past the caches.
    """
    rows_at, weights_at, count, hidden = rows
    if not first:
        add_rows(like, like_y, rows_at, weights_at, count, hidden, y_at)
    elif stream:
        stream_rows(like, like_y, rows_at, weights_at, count, hidden, y_at)
    else:
        write_rows(like, like_y, rows_at, weights_at, count, hidden, y_at)
