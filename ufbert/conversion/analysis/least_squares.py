"""Ridge regression whose memory does not grow with the tokens, and the best map of low rank, in float64.

Chunks of tokens are multiplied in float32 and summed in float64; an intercept is always there, as the last row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ufbert.conversion.distillation.shared_neurons import pursue

__all__ = ["RIDGE", "LeastSquares", "apply_map"]

RIDGE = 1e-3
"""Penalty in units of the features' mean variance. On all-MiniLM-L6-v2 1e-4 gives the same errors to 0.001."""
# Of the maps from the layer's input, which has no directions that are nearly absent: only against singular matrices.
LINEAR_RIDGE = 1e-6


class LeastSquares:
    """The sums that a weighted regression of targets (tokens, H) on features (tokens, F) needs."""

    def __init__(self, features: int, outputs: int, device: torch.device) -> None:
        self.gram = torch.zeros(features + 1, features + 1, dtype=torch.float64, device=device)
        self.moments = torch.zeros(features + 1, outputs, dtype=torch.float64, device=device)

    def add(self, features: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> None:
        """Take in some tokens: features (n, F), targets (n, H), weights (n, 1) of their errors, not squared."""
        design = F.pad(features, (0, 1), value=1.0) * weights
        self.gram += (design.T @ design).double()
        self.moments += (design.T @ (targets * weights)).double()

    def ridge(self, towards: torch.Tensor, keep: torch.Tensor | None = None) -> torch.Tensor:
        """The coefficients (F + 1, H), drawn towards `towards` (F, H); with `keep` of those features alone.

        Features count around their means, and the intercept is free: a neuron that is on all the time, with small
        differences, is drawn no more than others.
        """
        gram, moments, feature_means, target_means = self._centred()
        if keep is not None:
            gram, moments, towards = gram[keep][:, keep], moments[keep], towards[keep]
            feature_means = feature_means[keep]
        penalty = RIDGE * gram.diagonal().mean().clamp(min=1e-12)
        coefficients = _solve(gram, moments + penalty * towards.double(), penalty)
        return _with_intercept(coefficients, feature_means, target_means)

    def pursuit(self, count: int) -> torch.Tensor:
        """Indices (count,) of the features that orthogonal matching pursuit takes, the best first."""
        gram, moments, _, _ = self._centred()
        return pursue(gram, moments, count)

    def low_rank(self, ranks: list[int]) -> list[torch.Tensor]:
        """For each rank the coefficients (F + 1, H) of the map of at most that rank with the least squared error.

        The full regression is projected on the leading principal directions of what it predicts. Source: Izenman
        1975, "Reduced-rank regression for the multivariate linear model".
        """
        gram, moments, feature_means, target_means = self._centred()
        full = _solve(gram, moments, LINEAR_RIDGE * gram.diagonal().mean().clamp(min=1e-12))
        _, directions = torch.linalg.eigh(full.T @ gram @ full)  # ascending
        maps = []
        for rank in ranks:
            leading = directions[:, max(0, len(directions) - rank) :]
            maps.append(_with_intercept(full @ leading @ leading.T, feature_means, target_means))
        return maps

    def _centred(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gram (F, F) and moments (F, H) around the weighted means, and the means."""
        total, sums = self.gram[-1, -1].clamp(min=1e-30), self.gram[-1, :-1]
        feature_means, target_means = sums / total, self.moments[-1] / total
        gram = self.gram[:-1, :-1] - torch.outer(sums, feature_means)
        return gram, self.moments[:-1] - torch.outer(sums, target_means), feature_means, target_means


def _solve(gram: torch.Tensor, moments: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """(gram + penalty I)^-1 moments."""
    solution: torch.Tensor = torch.linalg.solve(gram + penalty * torch.eye(len(gram)).to(gram), moments)
    return solution


def _with_intercept(coefficients: torch.Tensor, features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Coefficients (F, H) and below them the intercept that takes the features' means (F,) to the targets' (H,)."""
    return torch.cat((coefficients, (targets - features @ coefficients)[None])).float()


def apply_map(features: torch.Tensor, coefficients: torch.Tensor) -> torch.Tensor:
    """features (n, F) and coefficients (F + 1, H) with the intercept last -> (n, H)."""
    return torch.addmm(coefficients[-1], features, coefficients[:-1])
