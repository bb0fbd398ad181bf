"""NumPy in, NumPy out, over chunks: what the training of decisions needs of all logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .branches import branch_gradients as _branch_gradients
from .branches import path_activations as _path_activations
from .threads import run_chunks
from .wrappers import STORAGES

__all__ = ["branch_gradients", "path_activations"]

TOKENS_PER_CHUNK = 64

Stored = npt.NDArray[Any]


def path_activations(storage: str, logits: Stored, trees: int, threads: int = 1) -> Stored:
    """The activations (tokens, P * N) to logits of all nodes: zero off each token's paths.

    `storage` is float32, float64 or bfloat16, whose bits stand in arrays of uint16. Raises ValueError or TypeError
    for arrays that are not of whole trees, or not of that storage.
    """
    like = _check(storage, trees, logits=logits)
    activations = np.empty_like(logits)

    def work(chunk: int) -> None:
        _path_activations(like, logits, activations, trees, *_chunk(chunk, len(logits)))

    run_chunks(work, -(-len(logits) // TOKENS_PER_CHUNK), threads)
    return activations


def branch_gradients(
    storage: str, logits: Stored, gains: Stored, trees: int, temperature: float, threads: int = 1
) -> None:
    """The gradients of activations, if all were visited (tokens, P * N), in place to gradients of `logits`.

    They are zero off the paths, and on them hold what the loss would gain if the token took the other branch, times
    the slope of a sigmoid of `temperature` in the place of the decision. Storage and errors as in `path_activations`.
    """
    like = _check(storage, trees, logits=logits, gains=gains)
    if gains.shape != logits.shape:
        raise ValueError(f"gains {gains.shape} do not match logits {logits.shape}")

    def work(chunk: int) -> None:
        _branch_gradients(like, logits, gains, trees, temperature, *_chunk(chunk, len(logits)))

    run_chunks(work, -(-len(logits) // TOKENS_PER_CHUNK), threads)


def _chunk(chunk: int, tokens: int) -> tuple[int, int]:
    start = chunk * TOKENS_PER_CHUNK
    return start, min(start + TOKENS_PER_CHUNK, tokens)


def _check(storage: str, trees: int, **arrays: Stored) -> Stored:
    """An empty array of what is computed in."""
    stored, like = STORAGES[storage]
    for name, array in arrays.items():
        if array.dtype != stored.dtype:
            raise TypeError(f"{name} is {array.dtype}; {storage} is stored as {stored.dtype}")
        nodes, odd = divmod(array.shape[-1], trees)
        if array.ndim != 2 or odd or not nodes or (nodes + 1) & nodes or not array.flags.c_contiguous:
            raise ValueError(f"{name} {array.shape} is no contiguous array of {trees} whole trees a token")
    return like
