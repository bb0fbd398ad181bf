"""Ridge regression of a dense layer's output on the activations of what takes its place."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

__all__ = ["MAXIMUM_UNKNOWNS", "ridge_towards"]

# Unknowns of the regression, beyond which its matrix (n x n) is no longer a matter of seconds.
MAXIMUM_UNKNOWNS = 6000
RIDGE = 1e-3


def ridge_towards(
    before: torch.Tensor,
    intercept: torch.Tensor | None,
    activations: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    y: torch.Tensor,
    batch: int = 4096,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Output weights (F, H) and intercept (H,) of the regression of y on `activations(x)` (tokens, F).

    They are drawn to `before` (F, H) and `intercept` (H,); without one the intercept is zero.
    """
    unknowns = len(before) + 1
    gram = x.new_zeros(unknowns, unknowns, dtype=torch.float32)
    moments = x.new_zeros(unknowns, before.shape[1], dtype=torch.float32)
    for start in range(0, len(x), batch):
        inputs, targets = x[start : start + batch].float(), y[start : start + batch].float()
        design = F.pad(activations(inputs), (0, 1), value=0.0 if intercept is None else 1.0)
        gram += design.T @ design
        moments += design.T @ targets
    drawn_to = F.pad(before, (0, 0, 0, 1))
    if intercept is not None:
        drawn_to[-1] = intercept
    weight = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
    gram.diagonal().add_(weight)
    solution = torch.linalg.solve(gram.double(), (moments + weight * drawn_to).double()).float()
    return solution[:-1], solution[-1]
