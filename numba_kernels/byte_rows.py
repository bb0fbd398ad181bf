"""Weights of 8 bits, as the kernels read them: rows of bytes, and a few numbers for each node."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["LINE", "byte_rows", "row_width"]

LINE = 64
"""Rows are whole lines of as many bytes."""
LARGEST = 127
ZERO = 128
"""The byte that stands for 0."""


def row_width(hidden: int) -> int:
    """Bytes of a row of `hidden` numbers."""
    return -(-hidden // LINE) * LINE


def byte_rows(
    weights: npt.NDArray[np.floating[Any]],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """weights (P, N, H) -> rows (P, N, `row_width(H)`) of bytes, weight / scale + 128 rounded, and the scales (P, N).

    A row's scale is its largest |weight| / 127. Of each 64 numbers, byte 16 i + 4 j + k is number 16 j + 4 i + k, the
    order in which vectors are narrowed and interleaved (see `byte_products`).
    """
    trees, nodes, hidden = weights.shape
    width = row_width(hidden)
    scales = (np.abs(weights).max(-1) / LARGEST).astype(np.float32)
    whole = np.zeros((trees, nodes, width), np.uint8)
    whole[..., :hidden] = np.rint(weights / np.maximum(scales, np.float32(1e-30))[..., None]) + ZERO
    blocks = whole.reshape(trees, nodes, -1, 4, 4, 4).swapaxes(-3, -2)
    return np.ascontiguousarray(blocks).reshape(trees, nodes, width), scales
