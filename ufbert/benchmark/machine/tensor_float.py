"""TF32: float32 products whose operands a GPU rounds to 11 bits, which torch leaves off and many turn on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

__all__ = ["in_tf32", "tf32"]


@contextlib.contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Matrix products on a GPU with or without TF32 inside the block, whatever the environment says."""
    # The newer `fp32_precision` does not tell the flag that torch.compile looks at; this one sets both.
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = on
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def in_tf32(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """The function with TF32 on during each call, compilation in the first one included."""

    def call(given: Any) -> Any:
        with tf32(True):
            return function(given)

    return call
