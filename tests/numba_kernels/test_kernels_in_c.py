"""The C of `docs/kernels.md` gives the kernels' bits: what the page shows is what the hand-built loops do."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from llvmlite import binding

from ufbert import numba_kernels
from ufbert.numba_kernels.activation import gelu_into

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "kernels.md"
HIDDEN = 333  # whole pieces, a smaller one, and a rest
Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def c(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    if not binding.get_host_cpu_features().get("fma", True):
        pytest.skip("this processor rounds a product before it is added")
    folder = tmp_path_factory.mktemp("c")
    source, library = folder / "kernels.c", folder / "kernels.so"
    source.write_text("\n".join(re.findall(r"```c\n(.*?)```", PAGE.read_text(), re.S)))
    strict = ["-O2", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    subprocess.run([compiler, *strict, "-shared", "-fPIC", str(source), "-o", str(library), "-lm"], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.dot.restype = loaded.widened.restype = ctypes.c_float
    loaded.narrowed.restype = ctypes.c_uint16
    loaded.quantized.restype = ctypes.c_uint8
    return loaded


def at(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def layer(tokens: int) -> tuple[Floats, Floats, Floats, Floats]:
    """x, w_in, b_in, w_out of one tree of depth 2 without biases."""
    generator = np.random.default_rng(5)

    def draw(*shape: int) -> Floats:
        return generator.standard_normal(shape, dtype=np.float32)

    return draw(tokens, HIDDEN), draw(1, 7, HIDDEN), np.zeros((1, 7), np.float32), draw(1, 7, HIDDEN)


def path(leaf: int) -> list[int]:
    return [0, (leaf - 1) // 2, leaf]


def summed(c: ctypes.CDLL, rows: list[Floats], logits: Floats) -> Floats:
    activations = np.empty_like(logits)
    gelu_into(logits, activations)
    addresses = np.array([row.ctypes.data for row in rows])
    y = np.empty(HIDDEN, np.float32)
    c.weighted_sum(at(addresses), at(activations), ctypes.c_long(len(rows)), ctypes.c_long(HIDDEN), at(y), 1)
    return y


@pytest.mark.parametrize("tokens", [5, 50])  # walking in eights, and together
def test_products_and_sums_of_rows(c: ctypes.CDLL, tokens: int) -> None:
    x, w_in, b_in, w_out = layer(tokens)
    y, logits, leaves = numba_kernels.forward(x, w_in, b_in, w_out)
    for t in range(tokens):
        nodes = path(int(leaves[t, 0]))
        dots = [c.dot(at(x[t]), at(w_in[0, node]), ctypes.c_long(HIDDEN)) for node in nodes]
        np.testing.assert_array_equal(np.array(dots, np.float32), logits[t, 0])
        np.testing.assert_array_equal(summed(c, [w_out[0, node] for node in nodes], logits[t, 0]), y[t])


def test_bfloat16_and_bytes(c: ctypes.CDLL) -> None:
    def narrow(array: Floats) -> npt.NDArray[np.uint16]:
        numbers = [c.narrowed(ctypes.c_float(number)) for number in array.ravel().tolist()]
        return np.array(numbers, np.uint16).reshape(array.shape)

    def wide(array: npt.NDArray[np.uint16]) -> Floats:
        numbers = [c.widened(ctypes.c_uint16(number)) for number in array.ravel().tolist()]
        return np.array(numbers, np.float32).reshape(array.shape)

    x, w_in, b_in, w_out = layer(3)
    x[2, 7] = np.nan
    stored = [narrow(array) for array in (x, w_in, w_out)]
    y = np.empty_like(stored[0])
    logits, leaves = np.empty((3, 1, 3), np.float32), np.empty((3, 1), np.int64)
    operands = (stored[0], stored[1], b_in, stored[2], y, logits, leaves)
    addresses = tuple(array.ctypes.data for array in operands)
    numba_kernels.forward_at("bfloat16", addresses, 3, 1, 7, HIDDEN, 1)
    rows = wide(stored[2])[0]
    for t in range(2):
        whole = summed(c, [rows[node] for node in path(int(leaves[t, 0]))], logits[t, 0])
        np.testing.assert_array_equal(narrow(whole), y[t])
    assert np.isnan(wide(y[2])).all()
    assert np.isnan(wide(narrow(np.array([np.nan], np.float32)))).all()
    numbers = stored[0][:2].copy()
    result = np.empty(numbers.shape, np.uint8)
    scales = np.empty(2, np.float32)
    numba_kernels.quantize_rows_at(numbers.ctypes.data, result.ctypes.data, scales.ctypes.data, 2, HIDDEN)
    largest = np.abs(wide(numbers)).max(1)
    np.testing.assert_allclose(scales, largest / 127, rtol=1e-6)
    expected = [
        c.quantized(ctypes.c_float(number), ctypes.c_float(float(np.float32(127) / most)))
        for row, most in zip(wide(numbers), largest, strict=True)
        for number in row.tolist()
    ]
    np.testing.assert_array_equal(result.ravel(), np.array(expected, np.uint8))


def test_trees_of_bytes(c: ctypes.CDLL) -> None:
    """Two trees walked token by token and five side by side; the C has the bytes in their plain order."""
    tokens, most = 20, 127 * 128
    for trees in (2, 5):
        generator = np.random.default_rng(trees)
        w_in, w_out = (generator.standard_normal((trees, 7, HIDDEN), dtype=np.float32) for _ in range(2))
        x = generator.standard_normal((tokens, HIDDEN), dtype=np.float32).view(np.uint32) >> 16 << 16
        stored = (x >> 16).astype(np.uint16)
        x = x.view(np.float32)
        (rows_in, scales_in), (rows_out, scales_out) = (numba_kernels.byte_rows(w) for w in (w_in, w_out))
        known = np.stack([scales_in, np.zeros_like(scales_in), scales_out], -1)
        y = np.empty_like(stored)
        operands = (stored, known, rows_in, rows_out, y)
        addresses = (*(array.ctypes.data for array in operands), 0, 0)
        numba_kernels.forward_bytes_at(addresses, tokens, trees, 7, HIDDEN)
        plain_in, plain_out = (plain(rows) for rows in (rows_in, rows_out))
        width = ctypes.c_long(plain_in.shape[-1])
        for t in range(tokens):
            numbers, scale = split(x[t], most)
            row = np.zeros((2, plain_in.shape[-1]), np.int8)
            row[0, :HIDDEN] = (numbers + 64) >> 7
            row[1, :HIDDEN] = numbers - 128 * ((numbers + 64) >> 7)
            logits, rows = np.empty(3 * trees, np.float32), []
            scales = np.empty_like(logits)
            for p in range(trees):
                node = 0
                for level in range(3):
                    total = c.dots(at(plain_in[p, node]), at(row[0]), at(row[1]), width) - 128 * int(numbers.sum())
                    logit = np.float32(total) * (scale * scales_in[p, node])
                    logits[3 * p + level], scales[3 * p + level] = logit, scales_out[p, node]
                    rows.append(plain_out[p, node])
                    node = 2 * node + 1 + int(logit > 0)
            activations = np.empty_like(logits)
            gelu_into(logits, activations)
            weights, scale = split(activations * scales, most)
            own = np.array([r.ctypes.data for r in rows]), weights.astype(np.int16), np.empty(HIDDEN, np.float32)
            count, hidden = ctypes.c_long(len(rows)), ctypes.c_long(HIDDEN)
            c.add_up(at(own[0]), at(own[1]), count, hidden, ctypes.c_float(float(scale)), at(own[2]))
            expected = np.array([c.narrowed(ctypes.c_float(number)) for number in own[2].tolist()], np.uint16)
            np.testing.assert_array_equal(expected, y[t])


def split(x: Floats, most: int) -> tuple[npt.NDArray[np.int64], np.float32]:
    """The numbers of at most +-most that x is rounded to, and their scale."""
    largest = np.abs(x).max()
    factor = np.float32(most) / largest
    sums = (x.astype(np.float64) * float(factor) + 32768.5).astype(np.float32)
    return sums.astype(np.int64) - 32768, np.float32(largest * np.float32(1 / most))


def plain(rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Bytes in the order of the weights."""
    blocks = rows.reshape(*rows.shape[:2], -1, 4, 4, 4).swapaxes(-3, -2)
    return np.ascontiguousarray(blocks).reshape(rows.shape)
