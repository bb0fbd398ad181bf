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
from .vectors import BYTE, I64, Storage, fused, splat, sum_lanes

__all__ = ["dots_1x1", "dots_1x4", "dots_3x2", "dots_4x1", "dots_pairwise_4", "weighted_sum"]

RUNNING_SUMS = 4
# Numba hands the first parameter, the typing context, in by itself.
_intrinsic: Any = intrinsic


def row_loop(builder: Any, hidden: Any, step: int, carried: list[Any], body: Any) -> list[Any]:
    """`body(item, carried, masked)` for every `step` items of a row, the last ones masked; the last `carried`."""
    function = builder.function
    head, full, middle, rest, end = (
        function.append_basic_block(name) for name in ("head", "full", "middle", "rest", "end")
    )
    entry = builder.block
    builder.branch(head)
    builder.position_at_end(head)
    item = builder.phi(I64)
    item.add_incoming(ir.Constant(I64, 0), entry)
    running = [builder.phi(value.type) for value in carried]
    for phi, value in zip(running, carried, strict=True):
        phi.add_incoming(value, entry)
    following = builder.add(item, ir.Constant(I64, step))
    builder.cbranch(builder.icmp_signed("<=", following, hidden), full, middle)
    builder.position_at_end(full)
    updated = body(item, running, False)
    item.add_incoming(following, builder.block)
    for phi, value in zip(running, updated, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(head)
    builder.position_at_end(middle)
    builder.cbranch(builder.icmp_signed("<", item, hidden), rest, end)
    builder.position_at_end(rest)
    last = body(item, running, True)
    ended = builder.block
    builder.branch(end)
    builder.position_at_end(end)
    results = []
    for phi, value in zip(running, last, strict=True):
        result = builder.phi(phi.type)
        result.add_incoming(phi, middle)
        result.add_incoming(value, ended)
        results.append(result)
    return results


def _dots(cells: list[tuple[int, int]]) -> Any:
    """An intrinsic `dots(like, xs, ws, hidden, out)` of the (row, token) pairs in `cells`.

    `xs` and `ws` are tuples of addresses of rows of `hidden` numbers in the storage of `like`; the logits go,
    in the order of `cells`, to the float32 (or float64) array at the address `out`.
    """
    rows = 1 + max(row for row, _ in cells)
    tokens = 1 + max(token for _, token in cells)

    @_intrinsic
    def dots(typingctx: Any, like: Any, xs: Any, ws: Any, hidden: Any, out: Any) -> Any:
        storage = Storage(like)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, xs_at, ws_at, length, out_at = args
            pointer = BYTE.as_pointer()
            x = [builder.inttoptr(builder.extract_value(xs_at, i), pointer) for i in range(tokens)]
            w = [builder.inttoptr(builder.extract_value(ws_at, i), pointer) for i in range(rows)]

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
            sums = row_loop(builder, length, RUNNING_SUMS * storage.lanes, start, body)
            out_pointer = builder.inttoptr(out_at, storage.scalar.as_pointer())
            for cell in range(len(cells)):
                a, b, c, d = sums[cell * RUNNING_SUMS : (cell + 1) * RUNNING_SUMS]
                total = sum_lanes(builder, builder.fadd(builder.fadd(a, c), builder.fadd(b, d)))
                builder.store(total, builder.gep(out_pointer, [ir.Constant(I64, cell)]))
            return context.get_dummy_value()

        return types.void(like, xs, ws, types.intp, types.intp), generate

    return dots


dots_1x1 = _dots([(0, 0)])
dots_1x4 = _dots([(0, token) for token in range(4)])
dots_4x1 = _dots([(row, 0) for row in range(4)])
# A node and its two children with two tokens; a token's three logits stand together.
dots_3x2 = _dots([(row, token) for token in range(2) for row in range(3)])
# Four tokens, each with a row of its own.
dots_pairwise_4 = _dots([(i, i) for i in range(4)])


def _weighted_rows(rows: int, first: bool, stream: bool) -> Any:
    """An intrinsic `add(like, like_y, rows_at, weights_at, hidden, y_at)`: y (+)= sum of weight * row.

    `rows_at` is the address of `rows` addresses, `weights_at` that of as many float32 (or float64); rows lie
    in the storage of `like`, y in that of `like_y`. `first` writes y, else it is added to.
    """

    @_intrinsic
    def add(
        typingctx: Any, like: Any, like_y: Any, rows_at: Any, weights_at: Any, hidden: Any, y_at: Any
    ) -> Any:  # fmt: skip
        storage, target = Storage(like), Storage(like_y)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            _, _, rows_address, weights_address, length, y_address = args
            addresses = builder.inttoptr(rows_address, I64.as_pointer())
            numbers = builder.inttoptr(weights_address, storage.scalar.as_pointer())
            places = [ir.Constant(I64, i) for i in range(rows)]
            row = [
                builder.inttoptr(builder.load(builder.gep(addresses, [place])), BYTE.as_pointer()) for place in places
            ]
            weight = [splat(builder, builder.load(builder.gep(numbers, [place])), storage.lanes) for place in places]
            y = builder.inttoptr(y_address, BYTE.as_pointer())

            def body(item: Any, _: list[Any], masked: bool) -> list[Any]:
                mask = storage.mask(builder, builder.sub(length, item)) if masked else None
                total = None if first else target.load(builder, y, item, mask)
                for i in range(rows):
                    vector = storage.load(builder, row[i], item, mask)
                    if total is None:
                        total = builder.fmul(weight[i], vector)
                    else:
                        total = fused(builder, weight[i], vector, total)
                target.store(builder, total, y, item, mask, stream)
                return []

            row_loop(builder, length, storage.lanes, [], body)
            return context.get_dummy_value()

        return types.void(like, like_y, *[types.intp] * 4), generate

    return add


# As many rows as weights fit into registers beside the sum, and sizes that add up to any number below.
write_12, write_6, write_4, write_2, write_1 = (_weighted_rows(rows, True, False) for rows in (12, 6, 4, 2, 1))
add_12, add_6, add_4, add_2, add_1 = (_weighted_rows(rows, False, False) for rows in (12, 6, 4, 2, 1))
stream_12 = _weighted_rows(12, True, True)


@kernel
def weighted_sum(
    like: Any, like_y: Any, rows_at: int, weights_at: int, rows: int, item_bytes: int, hidden: int, y_at: int,
    first: bool, stream: bool,
) -> None:  # fmt: skip
    """y (+)= sum of weight * row over any number of rows, whose addresses and weights (of `item_bytes`) lie at
    `rows_at` and `weights_at`. `stream` goes past the caches if one pass does it all."""
    done = 0
    while done < rows:
        r = rows_at + 8 * done
        w = weights_at + item_bytes * done
        left = rows - done
        if left >= 12:
            if not first:
                add_12(like, like_y, r, w, hidden, y_at)
            elif stream and left == 12:
                stream_12(like, like_y, r, w, hidden, y_at)
            else:
                write_12(like, like_y, r, w, hidden, y_at)
            done += 12
        elif left >= 6:
            if first:
                write_6(like, like_y, r, w, hidden, y_at)
            else:
                add_6(like, like_y, r, w, hidden, y_at)
            done += 6
        elif left >= 4:
            if first:
                write_4(like, like_y, r, w, hidden, y_at)
            else:
                add_4(like, like_y, r, w, hidden, y_at)
            done += 4
        elif left >= 2:
            if first:
                write_2(like, like_y, r, w, hidden, y_at)
            else:
                add_2(like, like_y, r, w, hidden, y_at)
            done += 2
        else:
            if first:
                write_1(like, like_y, r, w, hidden, y_at)
            else:
                add_1(like, like_y, r, w, hidden, y_at)
            done += 1
        first = False
