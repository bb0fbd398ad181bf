"""The tree health of a model: hooks that count where the tokens of a forward pass end, and the table of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ufbert.cmm.leaf_use import tree_health
from ufbert.cmm.operator import cmm_leaves
from ufbert.cmm.tree import leaf_count
from ufbert.system.compiler import uncompiled

from .fff import FFF

__all__ = ["HEALTH_COLUMNS", "LeafRecorder", "health_rows", "summarise_health"]

HEALTH_COLUMNS = (
    "layer",
    "leaves in use",
    "entropy of leaf use",
    "dead subtrees",
    "right by level, %",
)


class LeafRecorder:
    """Counts the tokens by leaf in every fast feedforward layer of `model`, while it is asked to."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        named = [(name, module) for name, module in model.named_modules() if isinstance(module, FFF)]
        self.layers = [module for _, module in named]
        self.numbers = [_number(name, number) for number, (name, _) in enumerate(named)]
        """Of the layers, from 0 on; those without trees are left out."""
        self._counts = [
            torch.zeros(m.trees * leaf_count(m.depth), dtype=torch.int64, device=m.w_in.device) for m in self.layers
        ]

    @contextlib.contextmanager
    def record(self, attention_mask: torch.Tensor | None = None) -> Iterator[None]:
        """Count the forward passes in the block; attention_mask (B, T) leaves out the tokens where it is 0."""
        if not self.layers:
            yield
            return
        real = None if attention_mask is None else attention_mask.reshape(-1).bool()
        hooks = [
            layer.register_forward_pre_hook(lambda module, inputs, total=total: _count(module, inputs[0], real, total))
            for layer, total in zip(self.layers, self._counts, strict=True)
        ]
        try:
            with uncompiled(self.model):  # a compiled graph holds none of the hooks
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def counts(self) -> list[npt.NDArray[np.int64]]:
        """Tokens by leaf of each layer, (P, leaves)."""
        return [total.reshape(m.trees, -1).cpu().numpy() for m, total in zip(self.layers, self._counts, strict=True)]

    def health(self) -> list[dict[str, Any]]:
        """`tree_health` of each layer with its number, from 0; empty if no token was counted, or there are no trees.

        Rounded to four digits after the point, as a log of many measurements would otherwise be long.
        """
        found = [{"layer": n, **tree_health(c)} for n, c in zip(self.numbers, self.counts(), strict=True) if c.any()]
        return [{name: _rounded(value) for name, value in layer.items()} for layer in found]


def _number(name: str, number: int) -> int:
    """Which of an encoder's layers a module of that name is in; `number` for one that is in none."""
    found = re.search(r"(?:^|\.)layers\.(\d+)\.", name)
    return int(found[1]) if found else number


def _count(layer: FFF, x: torch.Tensor, real: torch.Tensor | None, total: torch.Tensor) -> None:
    """Add the leaves of x (..., H) to the tokens by leaf, (P * leaves,), by the fastest backend there is."""
    leaves = cmm_leaves(x, layer.w_in, layer.b_in, layer.w_out)  # (tokens, P), node indices
    if real is not None:
        leaves = leaves[real]
    width = leaf_count(layer.depth)
    first = torch.arange(layer.trees, device=leaves.device) * width - (width - 1)
    total += torch.bincount((leaves + first).reshape(-1), minlength=len(total))


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 4) if isinstance(value, float) else value


def health_rows(layers: Sequence[dict[str, Any]]) -> list[list[str]]:
    """A row of `HEALTH_COLUMNS` for each layer of `LeafRecorder.health`; layers are numbered from 1."""
    return [
        [
            str(layer["layer"] + 1),
            f"{100 * layer['used_leaves']:.1f} % (uniform: {100 * layer['expected_used_leaves']:.1f} %)",
            f"{layer['entropy_bits']:.2f} of {layer['maximum_entropy_bits']:.0f} bits "
            f"(uniform: {layer['expected_entropy_bits']:.2f})",
            f"{layer['dead_subtrees']:g}, largest of {layer['largest_dead_subtree']} leaves"
            if layer["dead_subtrees"]
            else "none",
            " ".join(f"{100 * share:.0f}" for share in layer["right_share_by_level"]) or "-",
        ]
        for layer in layers
    ]


def summarise_health(layers: Sequence[dict[str, Any]]) -> str:
    """One line on all layers, which must not be empty."""

    def mean(name: str) -> float:
        return float(sum(layer[name] for layer in layers) / len(layers))

    least = min(layers, key=lambda layer: float(layer["used_leaves"]))
    return (
        f"{100 * mean('used_leaves'):.0f} % of the leaves in use (uniform: {100 * mean('expected_used_leaves'):.0f} %; "
        f"least {100 * least['used_leaves']:.0f} % in layer {least['layer'] + 1}), entropy "
        f"{mean('entropy_bits'):.1f} of {mean('maximum_entropy_bits'):.0f} bits, "
        f"{mean('dead_subtrees'):.0f} dead subtrees a layer"
    )
