"""LLVM vector code that Numba cannot write: loads, products and sums of 64 bytes at a time, for any storage type.

Numba's own loops leave the width of a vector and the number of running sums to LLVM, which prefers 256 bits on
many processors and changes its mind with the loop's shape. A dot product of this package must come out bit for
bit the same in whatever company it is computed, so its order of summation is written down here.

Each function that writes instructions says beside them what they are in C; `docs/kernels.md` shows whole loops.

Storage types, by the dtype of a `like` array: float32, float64, and uint16 for the bits of bfloat16. bfloat16 is
widened to float32 as it is loaded, and rounded to nearest even as it is stored.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.registry import cpu_target
from numba.extending import intrinsic

__all__ = [
    "Storage", "added", "declare", "fence", "folded", "fused", "has_feature", "pointer_to", "prefetch", "row_loop",
    "splat", "store_sums", "sum_lanes",
]  # fmt: skip

BYTE = ir.IntType(8)
I32 = ir.IntType(32)
I64 = ir.IntType(64)
VECTOR_BYTES = 64

# Numba hands the first parameter, the typing context, in by itself.
_intrinsic: Any = intrinsic


def declare(builder: Any, name: str, result: Any, parameters: list[Any]) -> Any:
    """The LLVM intrinsic of that name, declared once in a module."""
    known = builder.module.globals.get(name)
    return known or ir.Function(builder.module, ir.FunctionType(result, parameters), name)


class BFloat(ir.Type):  # type: ignore[misc,unused-ignore]
    """bfloat16, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"


def has_feature(name: str) -> bool:
    """Whether the processor that is compiled for has an instruction set, by LLVM's name for it."""
    return f"+{name}" in cpu_target.target_context.codegen().magic_tuple()[2].split(",")


class Storage:
    """How numbers of one type lie in memory, and the vector they are computed in."""

    def __init__(self, like: types.Array) -> None:
        """`like` is an array's Numba type. Raises TypeError for a dtype that no kernel computes in."""
        if like.dtype not in (types.float32, types.float64, types.uint16):
            raise TypeError(f"no kernel computes in {like.dtype}")
        self.narrow = like.dtype == types.uint16
        self.scalar = ir.DoubleType() if like.dtype == types.float64 else ir.FloatType()
        self.bits = 64 if like.dtype == types.float64 else 32
        self.lanes = VECTOR_BYTES * 8 // self.bits
        self.item_bytes = 2 if self.narrow else self.bits // 8
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self._stored = ir.VectorType(ir.IntType(16), self.lanes) if self.narrow else self.vector
        self._wide = ir.VectorType(I32, self.lanes)

    def zero(self) -> Any:
        """A vector of zeros."""
        return ir.Constant(self.vector, [ir.Constant(self.scalar, 0.0)] * self.lanes)

    def mask(self, builder: Any, left: Any) -> Any:
        """The first `left` (i64) lanes, for the end of a row. In C: mask[lane] = lane < left;"""
        lane = ir.Constant(ir.VectorType(I64, self.lanes), [ir.Constant(I64, i) for i in range(self.lanes)])
        return builder.icmp_signed("<", lane, splat(builder, left, self.lanes))

    def load(self, builder: Any, base: Any, item: Any, mask: Any = None) -> Any:
        """A vector from item `item` on of the row at `base` (a byte pointer), widened."""
        # C: value[lane] = mask[lane] ? row[item + lane] : 0; what lies behind the row's end is not touched.
        at = self._at(builder, base, item)
        if mask is None:
            value = builder.load(at)
            value.align = self.item_bytes
        else:
            name = f"llvm.masked.load.v{self.lanes}{'i16' if self.narrow else f'f{self.bits}'}.p0"
            function = declare(builder, name, self._stored, [at.type, I32, mask.type, self._stored])
            nothing = ir.Constant(self._stored, None)
            value = builder.call(function, [at, ir.Constant(I32, self.item_bytes), mask, nothing])
        if self.narrow:
            # C: bits = (uint32_t)stored[lane] << 16; memcpy(&value[lane], &bits, 4);
            shift = ir.Constant(self._wide, [16] * self.lanes)
            value = builder.bitcast(builder.shl(builder.zext(value, self._wide), shift), self.vector)
        return value

    def store(self, builder: Any, value: Any, base: Any, item: Any, mask: Any = None, stream: bool = False) -> None:
        """The opposite. `stream` goes past the caches; the address must then be a multiple of 64 bytes."""
        if self.narrow:
            value = self._narrowed(builder, value)
        # C: if (mask[lane]) row[item + lane] = value[lane];  with `stream` _mm512_stream_ps(row + item, value);
        at = self._at(builder, base, item)
        if mask is None:
            written = builder.store(value, at)
            written.align = self.lanes * self.item_bytes if stream else self.item_bytes
            if stream:
                written.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(I32, 1)]))
            return
        name = f"llvm.masked.store.v{self.lanes}{'i16' if self.narrow else f'f{self.bits}'}.p0"
        function = declare(builder, name, ir.VoidType(), [self._stored, at.type, I32, mask.type])
        builder.call(function, [value, at, ir.Constant(I32, self.item_bytes), mask])

    def _at(self, builder: Any, base: Any, item: Any) -> Any:
        offset = builder.mul(item, ir.Constant(I64, self.item_bytes))
        return builder.bitcast(builder.gep(base, [offset]), self._stored.as_pointer())

    def _narrowed(self, builder: Any, value: Any) -> Any:
        """float32 -> bfloat16, to nearest even; a NaN stays one."""
        if has_feature("avx512bf16"):
            return builder.bitcast(builder.fptrunc(value, ir.VectorType(BFloat(), self.lanes)), self._stored)

        def constant(number: int) -> Any:
            return ir.Constant(self._wide, [number] * self.lanes)

        # C: kept = isnan(value) ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        bits = builder.bitcast(value, self._wide)
        odd = builder.and_(builder.lshr(bits, constant(16)), constant(1))
        rounded = builder.lshr(builder.add(builder.add(bits, constant(0x7FFF)), odd), constant(16))
        quiet = builder.or_(builder.lshr(bits, constant(16)), constant(0x40))
        kept = builder.select(builder.fcmp_unordered("uno", value, value), quiet, rounded)
        return builder.trunc(kept, self._stored)


def splat(builder: Any, scalar: Any, lanes: int) -> Any:
    """The scalar in every lane. In C: vector[lane] = scalar;"""
    vector = ir.VectorType(scalar.type, lanes)
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, lanes), [0] * lanes))


def fused(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x * y + z, in one instruction where the processor has it. In C: fmaf(x[lane], y[lane], z[lane])"""
    bits = 32 if isinstance(x.type.element, ir.FloatType) else 64
    function = declare(builder, f"llvm.fmuladd.v{x.type.count}f{bits}", x.type, [x.type] * 3)
    return builder.call(function, [x, y, z])


def added(builder: Any, x: Any, y: Any) -> Any:
    """x + y, in this order of sums and no other. In C: x[lane] + y[lane]"""
    # To a sum without a flag Numba gives those of the kernel, which let LLVM reorder it: it did.
    return builder.fadd(x, y, flags=("contract",))


def sum_lanes(builder: Any, vector: Any) -> Any:
    """The sum of the lanes, in one order."""
    return folded(builder, vector, added)


def folded(builder: Any, vector: Any, join: Any) -> Any:
    """One number of all lanes: `join(builder, low, high)` takes halves together until one is left."""
    # C: for (int half = LANES / 2; half > 0; half /= 2)
    #        for (int lane = 0; lane < half; lane++) vector[lane] = join(vector[lane], vector[lane + half]);
    undefined = ir.Constant(vector.type, ir.Undefined)
    lanes = vector.type.count
    while lanes > 1:
        lanes //= 2
        low, high = (
            builder.shuffle_vector(
                vector,
                undefined,
                ir.Constant(ir.VectorType(I32, lanes), list(range(start, start + lanes))),
            )
            for start in (0, lanes)
        )
        vector = join(builder, low, high)
        undefined = ir.Constant(vector.type, ir.Undefined)
    return builder.extract_element(vector, ir.Constant(I32, 0))


def store_sums(builder: Any, vectors: list[Any], out: Any) -> None:
    """The sum of each vector's lanes, as `sum_lanes` has it, to the numbers from `out` (a typed pointer) on.

    Four are summed in the lanes of one vector, in 14 instructions for 32: of a dot product of 128 numbers the sum of
    the lanes is as much as the multiplying.
    """
    # C: for (i = 0; i < count; i++) out[i] = sum_lanes(vectors[i]);
    start = 0
    while start < len(vectors):
        count = next(count for count in (4, 2, 1) if start + count <= len(vectors))
        total = _lanes_of_few(builder, vectors[start : start + count])
        at = builder.bitcast(builder.gep(out, [ir.Constant(I64, start)]), total.type.as_pointer())
        builder.store(total, at).align = 4
        start += count


def _lanes_of_few(builder: Any, vectors: list[Any]) -> Any:
    """The sums of one, two or four vectors, as a vector of so many lanes."""
    lanes = vectors[0].type.count
    width = lanes
    # Where each sum's lanes begin, of which `width` are left.
    begins = [0]
    while width > 1:
        half = width // 2
        if len(vectors) > 1:
            low = [begin + i for begin in begins for i in range(half)]
            low += [lanes + place for place in low]
            vectors = [
                added(builder, _chosen(builder, a, b, low), _chosen(builder, a, b, [place + half for place in low]))
                for a, b in zip(vectors[::2], vectors[1::2], strict=True)
            ]
            begins = list(range(0, lanes, half))
        else:
            high = list(range(lanes))
            for begin in begins:
                high[begin : begin + half] = range(begin + half, begin + width)
            vectors = [added(builder, vectors[0], _chosen(builder, vectors[0], vectors[0], high))]
        width = half
    return _chosen(builder, vectors[0], vectors[0], begins)


def _chosen(builder: Any, a: Any, b: Any, places: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(places)), places))


def row_loop(
    builder: Any, hidden: Any, step: int, carried: list[Any], body: Any, start: Any = None, *, rest: bool = True
) -> tuple[list[Any], Any]:
    """`body(item, carried, masked)` for every `step` items of a row from `start` on, the last ones masked.

    Returns the last `carried`, and the item reached. Without `rest` the last items are left to another loop.
    """
    # C: for (; item + step <= hidden; item += step) body(item, false);
    #    if (rest && item < hidden) body(item, true);
    function = builder.function
    head, full, middle = (function.append_basic_block(name) for name in ("head", "full", "middle"))
    entry = builder.block
    builder.branch(head)
    builder.position_at_end(head)
    item = builder.phi(I64)
    item.add_incoming(ir.Constant(I64, 0) if start is None else start, entry)
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
    if not rest:
        return running, item
    masked, end = (function.append_basic_block(name) for name in ("masked", "end"))
    builder.cbranch(builder.icmp_signed("<", item, hidden), masked, end)
    builder.position_at_end(masked)
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
    return results, item


@_intrinsic
def pointer_to(typingctx: Any, address: Any, like: Any) -> Any:
    """The address (an integer) as a pointer to `like`'s dtype, for `numba.carray`. In C: (T *)address"""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(like.dtype)(address, like), generate


@_intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address. In C: __builtin_prefetch((void *)address, 0, 3);"""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], BYTE.as_pointer())
        function = declare(builder, "llvm.prefetch.p0", ir.VoidType(), [pointer.type, I32, I32, I32])
        builder.call(function, [pointer, *(ir.Constant(I32, number) for number in (0, 3, 1))])
        return context.get_dummy_value()

    return types.void(types.intp), generate


@_intrinsic
def fence(typingctx: Any) -> Any:
    """Make streamed stores visible to other threads before anything that follows. In C: _mm_mfence();"""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate
