"""Dense and conditional layers out of single BLAS calls: the comparison that the paper's inference table makes.

Level 1 uses dot and axpy on vectors, Level 2 gemv on matrices; GELU and the walk's decisions are plain code.
The BLAS is the one SciPy ships, called by address as Numba itself does it, so no Python stands between two
calls. Nothing else in this package uses these kernels: they are what the walk is measured against.

Letters: t tokens, p trees, n nodes of a tree (or neurons of a dense layer), h hidden size. float32 only.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import get_cython_function_address, intrinsic

from .compilation import kernel
from .threads import run_chunks

__all__ = ["conditional_level_1", "conditional_level_2", "dense_level_1", "dense_level_2"]

Floats = npt.NDArray[np.float32]

# Numba hands the first parameter, the typing context, in by itself.
_intrinsic: Any = intrinsic

SQRT_HALF = np.float32(math.sqrt(0.5))
# A dense token takes long enough to be handed out alone; a walk does not.
MOST_TOKENS_PER_CHUNK = 64


@functools.cache
def _address(name: str) -> int:
    """Where a BLAS routine of SciPy's lies. Passed as an argument, since the compiled kernel is cached on disk."""
    return int(get_cython_function_address("scipy.linalg.cython_blas", name))


def _by_reference(builder: Any, value: Any) -> Any:
    slot = builder.alloca(value.type)
    builder.store(value, slot)
    return slot


def _integer(builder: Any, value: Any) -> Any:
    return _by_reference(builder, builder.trunc(value, ir.IntType(32)))


def _call(builder: Any, address: Any, result: Any, arguments: list[Any]) -> Any:
    function_type = ir.FunctionType(result, [a.type for a in arguments])
    return builder.call(builder.inttoptr(address, function_type.as_pointer()), arguments)


@_intrinsic
def _dot(typingctx: Any, address: Any, n: Any, x: Any, y: Any) -> Any:
    """x . y over n float32 at the addresses x and y. In C: one = 1; return sdot_(&n, x, &one, y, &one);"""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, length, x_at, y_at = args
        pointer = ir.FloatType().as_pointer()
        one = _by_reference(builder, ir.Constant(ir.IntType(32), 1))
        count = _integer(builder, length)
        operands = [count, builder.inttoptr(x_at, pointer), one, builder.inttoptr(y_at, pointer), one]
        return _call(builder, function, ir.FloatType(), operands)

    return types.float32(types.intp, types.intp, types.intp, types.intp), generate


@_intrinsic
def _axpy(typingctx: Any, address: Any, n: Any, a: Any, x: Any, y: Any) -> Any:
    """y += a x over n float32 at the addresses x and y. In C: one = 1; saxpy_(&n, &a, x, &one, y, &one);"""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, length, scale, x_at, y_at = args
        pointer = ir.FloatType().as_pointer()
        one = _by_reference(builder, ir.Constant(ir.IntType(32), 1))
        operands = [
            _integer(builder, length),
            _by_reference(builder, scale),
            builder.inttoptr(x_at, pointer),
            one,
            builder.inttoptr(y_at, pointer),
            one,
        ]
        _call(builder, function, ir.VoidType(), operands)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.float32, types.intp, types.intp), generate


@_intrinsic
def _gemv(typingctx: Any, address: Any, transpose: Any, rows: Any, columns: Any, a: Any, x: Any, y: Any) -> Any:
    """y = A^T x if `transpose` else A x; A lies in Fortran's order: `rows` is the contiguous dimension."""

    # C: letter = transpose ? 'T' : 'N';
    #    sgemv_(&letter, &rows, &columns, &(float){1}, a, &rows, x, &(int){1}, &(float){0}, y, &(int){1});
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        function, transposed, m, n, a_at, x_at, y_at = args
        pointer = ir.FloatType().as_pointer()
        character = ir.IntType(8)
        letter = builder.select(
            builder.icmp_signed("!=", transposed, ir.Constant(transposed.type, 0)),
            ir.Constant(character, ord("T")),
            ir.Constant(character, ord("N")),
        )
        m_at = _integer(builder, m)
        one = _by_reference(builder, ir.Constant(ir.IntType(32), 1))
        operands = [
            _by_reference(builder, letter),
            m_at,
            _integer(builder, n),
            _by_reference(builder, ir.Constant(ir.FloatType(), 1.0)),
            builder.inttoptr(a_at, pointer),
            m_at,
            builder.inttoptr(x_at, pointer),
            one,
            _by_reference(builder, ir.Constant(ir.FloatType(), 0.0)),
            builder.inttoptr(y_at, pointer),
            one,
        ]
        _call(builder, function, ir.VoidType(), operands)
        return context.get_dummy_value()

    signature = types.void(types.intp, types.intp, types.intp, types.intp, types.intp, types.intp, types.intp)
    return signature, generate


@kernel
def _gelu(logit: Any) -> Any:
    return np.float32(0.5) * logit * (np.float32(1.0) + math.erf(logit * SQRT_HALF))


@kernel
def _dense_1(
    dot: int, axpy: int, x_th: Any, w_in_nh: Any, b_in_n: Any, w_out_nh: Any, y_th: Any, start: int, stop: int
) -> None:
    neurons, hidden = w_in_nh.shape
    for t in range(start, stop):
        x = x_th[t].ctypes.data
        y_th[t] = np.float32(0.0)
        y = y_th[t].ctypes.data
        for n in range(neurons):
            logit = _dot(dot, hidden, x, w_in_nh[n].ctypes.data) + b_in_n[n]
            _axpy(axpy, hidden, _gelu(logit), w_out_nh[n].ctypes.data, y)


@kernel
def _dense_2(gemv: int, x_th: Any, w_in_nh: Any, b_in_n: Any, w_out_nh: Any, y_th: Any, start: int, stop: int) -> None:
    neurons, hidden = w_in_nh.shape
    activations = np.empty(neurons, np.float32)
    for t in range(start, stop):
        _gemv(gemv, 1, hidden, neurons, w_in_nh.ctypes.data, x_th[t].ctypes.data, activations.ctypes.data)
        for n in range(neurons):
            activations[n] = _gelu(activations[n] + b_in_n[n])
        _gemv(gemv, 0, hidden, neurons, w_out_nh.ctypes.data, activations.ctypes.data, y_th[t].ctypes.data)


@kernel
def _conditional_1(
    dot: int, axpy: int, x_th: Any, w_in_pnh: Any, b_in_pn: Any, w_out_pnh: Any, y_th: Any, start: int, stop: int
) -> None:
    trees, nodes, hidden = w_in_pnh.shape
    for t in range(start, stop):
        x = x_th[t].ctypes.data
        y_th[t] = np.float32(0.0)
        y = y_th[t].ctypes.data
        for p in range(trees):
            node = 0
            while node < nodes:
                logit = _dot(dot, hidden, x, w_in_pnh[p, node].ctypes.data) + b_in_pn[p, node]
                _axpy(axpy, hidden, _gelu(logit), w_out_pnh[p, node].ctypes.data, y)
                node = 2 * node + 1
                if logit > 0:
                    node += 1


@kernel
def _conditional_2(
    gemv: int, x_th: Any, w_in_pnh: Any, b_in_pn: Any, w_out_pnh: Any, y_th: Any, start: int, stop: int
) -> None:
    trees, nodes, hidden = w_in_pnh.shape
    levels = 0
    while (1 << levels) <= nodes:
        levels += 1
    rows_ph = np.empty((trees, hidden), np.float32)
    logits_p = np.empty(trees, np.float32)
    path_kh = np.empty((trees * levels, hidden), np.float32)
    activations_k = np.empty(trees * levels, np.float32)
    node_p = np.empty(trees, np.int64)
    for t in range(start, stop):
        x = x_th[t].ctypes.data
        node_p[:] = 0
        for level in range(levels):
            # One tree's row is a matrix as it stands; the rows of several trees are brought together first.
            matrix = w_in_pnh[0, node_p[0]].ctypes.data
            if trees > 1:
                for p in range(trees):
                    rows_ph[p] = w_in_pnh[p, node_p[p]]
                matrix = rows_ph.ctypes.data
            _gemv(gemv, 1, hidden, trees, matrix, x, logits_p.ctypes.data)
            for p in range(trees):
                node = node_p[p]
                logit = logits_p[p] + b_in_pn[p, node]
                activations_k[level * trees + p] = _gelu(logit)
                path_kh[level * trees + p] = w_out_pnh[p, node]
                node_p[p] = 2 * node + 1
                if logit > 0:
                    node_p[p] += 1
        _gemv(
            gemv, 0, hidden, trees * levels,
            path_kh.ctypes.data, activations_k.ctypes.data, y_th[t].ctypes.data,
        )  # fmt: skip


def dense_level_1(x: Floats, w_in: Floats, b_in: Floats, w_out: Floats, threads: int = 1) -> Floats:
    """A dense layer by one dot and one axpy per neuron: x (tokens, H), w_in and w_out (N, H) -> (tokens, H)."""
    _check(x, w_in, b_in, w_out, 2)
    return _per_token(_dense_1, ("sdot", "saxpy"), x, w_in, b_in, w_out, threads)


def dense_level_2(x: Floats, w_in: Floats, b_in: Floats, w_out: Floats, threads: int = 1) -> Floats:
    """A dense layer by two gemv per token; shapes as in `dense_level_1`."""
    _check(x, w_in, b_in, w_out, 2)
    return _per_token(_dense_2, ("sgemv",), x, w_in, b_in, w_out, threads)


def conditional_level_1(x: Floats, w_in: Floats, b_in: Floats, w_out: Floats, threads: int = 1) -> Floats:
    """CMM by one dot and one axpy per visited node: x (tokens, H), w_in and w_out (P, N, H) -> (tokens, H)."""
    _check(x, w_in, b_in, w_out, 3)
    return _per_token(_conditional_1, ("sdot", "saxpy"), x, w_in, b_in, w_out, threads)


def conditional_level_2(x: Floats, w_in: Floats, b_in: Floats, w_out: Floats, threads: int = 1) -> Floats:
    """CMM by one gemv per level over the trees, and one over the gathered path; shapes as in `_level_1`."""
    _check(x, w_in, b_in, w_out, 3)
    return _per_token(_conditional_2, ("sgemv",), x, w_in, b_in, w_out, threads)


def _check(x: Floats, w_in: Floats, b_in: Floats, w_out: Floats, dimensions: int) -> None:
    """Addresses go to BLAS as they are, so nothing may be of another shape, type or order."""
    for name, array in (("x", x), ("w_in", w_in), ("b_in", b_in), ("w_out", w_out)):
        if array.dtype != np.float32 or not array.flags.c_contiguous:
            raise TypeError(f"{name} must be contiguous float32")
    if x.ndim != 2 or w_in.ndim != dimensions or w_in.shape[-1] != x.shape[1]:
        raise ValueError(f"x {x.shape} and w_in {w_in.shape} do not fit together")
    if w_out.shape != w_in.shape or b_in.shape != w_in.shape[:-1]:
        raise ValueError(f"w_in {w_in.shape}, b_in {b_in.shape} and w_out {w_out.shape} do not fit together")
    if max(w_in.shape) > 2**31 - 1:
        raise ValueError("BLAS counts in 32 bits; the matrix has a larger side")


def _per_token(
    function: Callable[..., None],
    routines: tuple[str, ...],
    x: Floats,
    w_in: Floats,
    b_in: Floats,
    w_out: Floats,
    threads: int,
) -> Floats:
    y = np.empty_like(x)
    addresses = [_address(name) for name in routines]
    tokens = x.shape[0]
    size = max(1, min(MOST_TOKENS_PER_CHUNK, tokens // (4 * threads)))

    def work(chunk: int) -> None:
        start = chunk * size
        function(*addresses, x, w_in, b_in, w_out, y, start, min(start + size, tokens))

    run_chunks(work, -(-tokens // size), threads)
    return y
