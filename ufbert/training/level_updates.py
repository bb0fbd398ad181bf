"""Training in which each level of a tree also moves as a whole.

A node of level l is trained by some 2^-l of the tokens, so its gradient is noisier, while AdamW's steps stay as long:
deep nodes wander, and what all tokens have in common every path has to learn by itself. So each level gets a step of
its own, by AdamW on the sum of its nodes' gradients, as one dense neuron that every token trains; a node's own step is
shortened by 2^(-l/2), the square root scaling of adaptive rates with the batch (Malladi et al. 2022,
arXiv 2205.10287). The layer that comes out is an ordinary one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ufbert.model.fff import FFF

__all__ = ["LevelUpdates", "begin_equal"]

ROWS = ("w_in", "b_in", "w_out")


def _trees(model: nn.Module) -> list[tuple[str, FFF]]:
    """The layers with trees deep enough to have a choice, by name."""
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, FFF) and layer.depth]


def _by_level(rows: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """rows (P, N, ...) -> views of the levels, root first: (P, 2^l, ...)."""
    return torch.split(rows, [2**level for level in range((rows.shape[1] + 1).bit_length() - 1)], 1)


@torch.no_grad()
def begin_equal(model: nn.Module) -> None:
    """Give all nodes of a level the weights of its first: each tree begins as a dense layer of D + 1 neurons."""
    for _, layer in _trees(model):
        for name in ROWS:
            for level in _by_level(getattr(layer, name)):
                level.copy_(level[:, :1].clone())


class LevelUpdates:
    """What the levels move by, as parameters that are zero between steps, and the hooks that apply it.

    Give `groups` to the optimiser, then `attach` to it; a step needs the memory of the trees' weights once more.
    """

    def __init__(self, model: nn.Module) -> None:
        self.steps: list[tuple[str, nn.Parameter, nn.Parameter]] = []
        """Name, rows (P, N, ...), and the levels' common steps (P, D + 1, ...)."""
        for prefix, layer in _trees(model):
            for name in ROWS:
                rows: nn.Parameter = getattr(layer, name)
                common = torch.zeros_like(rows[:, : layer.depth + 1])
                self.steps.append((f"{prefix}.{name}.levels", rows, nn.Parameter(common)))
        self._before: list[torch.Tensor] = []

    def groups(self) -> list[dict[str, Any]]:
        """For the optimiser: nothing decays here, as the rows themselves do."""
        named = [(name, common) for name, _, common in self.steps]
        return [{"params": named, "weight_decay": 0.0}] if named else []

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """From now on each of its steps is one of the levels too."""
        optimizer.register_step_pre_hook(self._sum_gradients)
        optimizer.register_step_post_hook(self._apply)

    @torch.no_grad()
    def _sum_gradients(self, *_hooked: Any) -> None:
        self._before = [rows.detach().clone() for _, rows, _ in self.steps]
        for _, rows, common in self.steps:
            if rows.grad is None:
                common.grad = None
            else:
                common.grad = torch.cat([level.sum(1, keepdim=True) for level in _by_level(rows.grad)], 1)

    @torch.no_grad()
    def _apply(self, *_hooked: Any) -> None:
        for (_, rows, common), before in zip(self.steps, self._before, strict=True):
            for depth, (new, old) in enumerate(zip(_by_level(rows), _by_level(before), strict=True)):
                # Together with the level's own, the root's step would be twice as long as any neuron's.
                own = 2 ** (-depth / 2) if depth else 0.0
                new.sub_(old).mul_(own).add_(old).add_(common[:, depth : depth + 1])
            common.zero_()
        self._before = []
