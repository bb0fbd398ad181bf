"""Which neurons of a dense layer all tokens should share, so that trees need only say what these leave over.

Matching pursuit: one after the other the neuron is taken whose activation, as far as the taken ones do not say it
already, explains most of the layer's output. Source: orthogonal matching pursuit, Pati, Rezaiifar & Krishnaprasad 1993.
"""

from __future__ import annotations

import torch

__all__ = ["Pursuit", "choose_shared", "pursue", "regress_on"]

# Neurons whose activation the taken ones say up to this share of its square add nothing but noise.
LEAST_OWN_SHARE = 1e-4
RIDGE = 1e-3


def choose_shared(activations: torch.Tensor, outputs: torch.Tensor, count: int) -> torch.Tensor:
    """Indices (count,) of the neurons that together explain most of `outputs` by least squares, the best first.

    activations (tokens, I) and outputs (tokens, H) are centred.
    """
    return pursue((activations.T @ activations).double(), (activations.T @ outputs).double(), count)


def pursue(gram: torch.Tensor, moments: torch.Tensor, count: int) -> torch.Tensor:
    """The same from the products of the activations among themselves (I, I) and with the outputs (I, H), float64.

    Both are left as they are.
    """
    return Pursuit(gram, moments).first(count)


class Pursuit:
    """The same a neuron after the other: what is asked for beyond the neurons taken already goes on from there.

    Of the products that the taken ones leave over (a Cholesky factorisation of the gram matrix, the best pivot first)
    only the diagonal and the rows of the taken are computed: I * k operations for the k-th neuron in place of I * I.
    """

    def __init__(self, gram: torch.Tensor, moments: torch.Tensor) -> None:
        self._gram, self._moments = gram, moments.clone()
        self._own = gram.diagonal().clone()
        self._left = self._own.clone()
        self._free = torch.ones_like(self._own, dtype=torch.bool)
        self._chosen: list[int] = []
        self._directions = gram.new_empty(16, len(gram))  # rows of the factor, `_used` of them
        self._used = 0

    def first(self, count: int) -> torch.Tensor:
        """Indices (count,) of the neurons, the best first."""
        while len(self._chosen) < count:
            self._take()
        return torch.tensor(self._chosen[:count], dtype=torch.int64, device=self._gram.device)

    def _take(self) -> None:
        spent = self._left <= LEAST_OWN_SHARE * self._own
        explains = self._moments.square().sum(1) / self._left.clamp(min=1e-30)
        explains[spent] = 0.0
        explains[~self._free] = -1.0
        best = int(explains.argmax())
        self._chosen.append(best)
        self._free[best] = False
        if not spent[best]:  # else all others hold what it says, and nothing changes
            before = self._directions[: self._used]
            direction = (self._gram[best] - before[:, best] @ before) / self._left[best].sqrt()
            if self._used == len(self._directions):
                self._directions = torch.cat((before, torch.empty_like(before)))
            self._directions[self._used] = direction
            self._used += 1
            self._moments.addr_(direction, self._moments[best] / self._left[best].sqrt(), alpha=-1)
            self._left -= direction.square()


def regress_on(shared: torch.Tensor, activations: torch.Tensor) -> torch.Tensor:
    """What a regression of all `activations` (tokens, I) on `shared` (tokens, S) leaves of them."""
    gram = shared.T @ shared
    gram.diagonal().add_(RIDGE * gram.diagonal().mean().clamp(min=1e-12))
    residual: torch.Tensor = activations - shared @ torch.linalg.solve(gram, shared.T @ activations)
    return residual
