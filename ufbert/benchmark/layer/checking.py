"""Holds an implementation's result for a batch against the float64 reference, before anything is timed."""

from __future__ import annotations

from typing import Any

import torch

from .implementations import Implementation
from .operands import DenseWeights, Operands, Pool, Weights, rounded_to_bytes
from .reference import Check, check_output, dense_rows, walk_rows
from .reference_gradients import check_training, dense_gradients, tree_gradients

__all__ = ["Checker"]

CHECKED_ROWS = 256
# TF32 rounds operands to 11 bits: an error of about 5e-4 of the norm.
TF32_TOLERANCE = 3e-3
# Beside the weights of 8 bits, which the reference has too, x and the dense layer's activations are rounded to 8.
INT8_TOLERANCE = 5e-2
CHECK_OPERATIONS = 2e10  # float64 operations that the dense reference may cost


class Checker:
    """The reference's results for the first batch of the pool, computed once per dtype, batch and layer.

    With `int8` those of the weights rounded to 8 bits.
    """

    def __init__(
        self, operands: Operands, pool: Pool, dtype: torch.dtype, *, training: bool, int8: bool = False
    ) -> None:
        self._operands, self._dtype, self._training, self._int8 = operands, dtype, training, int8
        self._pool = pool
        self._known: dict[Any, Any] = {}

    def check(self, implementation: Implementation, result: Any, tokens: int) -> Check:
        """Compare what an implementation returned for the first `tokens` tokens of the pool."""
        weights = self._operands[implementation.layer, implementation.role][0]
        key = (implementation.layer, implementation.role, tokens)
        if key not in self._known:
            self._known[key] = self._expected(weights, tokens)
        return self._compare(weights, implementation, result, tokens, self._known[key])

    def check_weights(self, weights: Weights, implementation: Implementation, result: Any, tokens: int) -> Check:
        """The same for other weights than the operands'."""
        return self._compare(weights, implementation, result, tokens, self._expected(weights, tokens))

    def _expected(self, weights: Weights, tokens: int) -> Any:
        first = next(self._pool.batches(tokens))
        if self._training:
            return expected_gradients(weights, first)
        rows = first[checked_rows(tokens, weights, first.device)]
        return expected_rows(rounded_to_bytes(weights) if self._int8 else weights, rows)

    def _compare(
        self, weights: Weights, implementation: Implementation, result: Any, tokens: int, wanted: Any
    ) -> Check:
        tolerance = TF32_TOLERANCE if implementation.tf32 else INT8_TOLERANCE if self._int8 else None
        if self._training:
            return check_training(result, wanted, self._dtype, tolerance)
        rows = checked_rows(tokens, weights, result.device)
        expected, margin = wanted
        return check_output(result[rows], expected, self._dtype, margin, tolerance)


def expected_rows(weights: Weights, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """y of the rows x in float64, and for trees the margins."""
    if isinstance(weights, DenseWeights):
        return dense_rows(x, weights), None
    walk = walk_rows(x, weights)
    return walk.y, walk.margin


def expected_gradients(weights: Weights, pair: tuple[torch.Tensor, torch.Tensor]) -> Any:
    """The parts of a training step's result that are compared."""
    if isinstance(weights, DenseWeights):
        return dense_gradients(*pair, weights)
    return tree_gradients(*pair, weights)


def checked_rows(tokens: int, weights: Weights, device: torch.device) -> torch.Tensor:
    """Rows of a batch to compare, first and last among them; all of a small batch."""
    rows = CHECKED_ROWS
    if isinstance(weights, DenseWeights):
        rows = min(rows, max(2, int(CHECK_OPERATIONS / (4 * weights.w_in.numel()))))
    return torch.linspace(0, tokens - 1, min(rows, tokens), device=device).round().long()
