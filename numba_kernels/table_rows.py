"""y = x + a row of a table for each token: what lies far apart in memory is asked for ahead.

A table of 16,384 rows of 384 numbers in bfloat16 is 12 MB, and a model has one for each layer: a row that has not been
seen lately waits for memory, which torch's lookup does one row after the other.
"""

from __future__ import annotations

from typing import Any

from numba import carray, types  # type: ignore[attr-defined,unused-ignore]
from numba.extending import intrinsic

from .compilation import kernel
from .vectors import BYTE, Storage, added, pointer_to, prefetch, row_loop

__all__ = ["add_table_rows"]

AHEAD = 4
"""Tokens between asking for a row and adding it: some 50 lines, more than a core waits for at once."""

# Numba hands the first parameter, the typing context, in by itself.
_intrinsic: Any = intrinsic


@_intrinsic
def _sum(typingctx: Any, like: Any, x_at: Any, other_at: Any, y_at: Any, count: Any) -> Any:
    storage = Storage(like)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, *addresses, length = args
        x, other, y = (builder.inttoptr(address, BYTE.as_pointer()) for address in addresses)

        # C: for (item = 0; item < count; item++) y[item] = x[item] + other[item];
        def body(item: Any, _: list[Any], masked: bool) -> list[Any]:
            mask = storage.mask(builder, builder.sub(length, item)) if masked else None
            a, b = (storage.load(builder, base, item, mask) for base in (x, other))
            storage.store(builder, added(builder, a, b), y, item, mask)
            return []

        row_loop(builder, length, storage.lanes, [], body)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 4), generate


@kernel
def add_table_rows(like: Any, like_ranks: Any, addresses: Any, columns: int, last: int, start: int, stop: int) -> None:
    """Rows `start` to `stop`: y = x + table[min(rank, last)]; ranks are int64 and not negative.

    `addresses` are those of x, ranks, table and y, all but the ranks in the storage of `like`.
    """
    x_at, ranks_at, table_at, y_at = addresses
    ranks = carray(pointer_to(ranks_at, like_ranks), stop)
    row = columns * like.itemsize
    for i in range(start - AHEAD, stop):
        if i + AHEAD < stop:
            following = table_at + min(ranks[i + AHEAD], last) * row
            for offset in range(0, row, 64):
                prefetch(following + offset)
            prefetch(following + row - 1)
        if i >= start:
            _sum(like, x_at + i * row, table_at + min(ranks[i], last) * row, y_at + i * row, columns)
