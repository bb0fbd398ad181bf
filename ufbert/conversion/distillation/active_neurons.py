"""How many neurons of a dense layer are active for a token: a loss that lowers it, and a measurement.

The loss is the square of Hoyer's measure over the layer's width: with s the sizes of what the neurons say, activation
times length of output weights, (sum of s)² / sum of s² / I. It is 1 where all I neurons say equally much and 1/I where
one says everything, whatever the scale, so that smaller activations beside larger output weights do not lower it.
Sources: Yang et al. 2020 (DeepHoyer, arXiv 1908.09979); Szatkowski et al. 2024 (D2DMoE, arXiv 2310.04361), who use it
on activations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ufbert.model.encoder import DenseFeedforward, UltraFastBertModel

from .batch import Batch
from .teacher import of_tokens

__all__ = [
    "ACTIVE_COLUMNS",
    "ACTIVE_MEANING",
    "ActiveNeurons",
    "active_rows",
    "hoyer_share",
    "measure_active",
    "record_active",
]

ACTIVE_COLUMNS = ("", "original", "student", "original: 90 %", "student: 90 %")
ACTIVE_MEANING = (
    "Neurons of a layer that are not zero for a token, and the fewest that have 90 % of the sum of the squares of what "
    "its neurons say (activation times length of output weights): means over the held-out tokens."
)
HELD = 0.9
LEAST = 1e-12


def hoyer_share(sizes: torch.Tensor) -> torch.Tensor:
    """Of sizes (tokens, I), none negative: the mean share of the neurons that are active, between 1/I and 1."""
    sums = sizes.sum(-1, dtype=torch.float32).square()
    squares = sizes.square().sum(-1, dtype=torch.float32).clamp(min=LEAST)
    return (sums / squares).mean() / sizes.shape[-1]


@contextmanager
def record_active(encoder: UltraFastBertModel, layers: tuple[int, ...]) -> Iterator[list[torch.Tensor]]:
    """A list that holds, after a forward pass, the sizes (B, T, I) of what the neurons of each of `layers` say.

    They carry the gradient of the activations alone.
    """
    found: list[torch.Tensor] = []

    def begin(*_: Any) -> None:
        found.clear()

    def hook(linear: torch.nn.Linear, inputs: tuple[torch.Tensor]) -> None:
        lengths = linear.weight.detach().norm(dim=0)
        found.append(inputs[0].abs() * lengths.to(inputs[0].dtype))

    handles = [encoder.embeddings.register_forward_pre_hook(begin)]
    for layer in layers:
        dense = encoder.layers[layer].get_submodule("feedforward")
        assert isinstance(dense, DenseFeedforward)
        handles.append(dense.linear_out.register_forward_pre_hook(hook))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class ActiveNeurons:
    """Of one layer, means over tokens."""

    layer: int
    width: int
    active: float
    """Neurons whose activation is not zero."""
    holding: float
    """The fewest neurons that have 90 % of the token's sum of squared sizes."""


class ActiveTally:
    """Adds up batch after batch."""

    def __init__(self, layers: tuple[int, ...]) -> None:
        self.layers = layers
        self.sums = [[0.0, 0.0] for _ in layers]
        self.widths, self.tokens = [0] * len(layers), 0

    def add(self, found: list[torch.Tensor], mask: torch.Tensor) -> None:
        """What `record_active` has found in a batch with that attention mask (B, T)."""
        self.tokens += int(mask.sum())
        for i, sizes in enumerate(found):
            s = of_tokens(sizes.detach(), mask)
            self.sums[i][0] += float((s > 0).sum())
            squares = s.square().sort(dim=-1, descending=True).values
            before = squares.cumsum(-1) - squares
            self.sums[i][1] += float(((before < HELD * squares.sum(-1, keepdim=True)) & (squares > 0)).sum())
            self.widths[i] = s.shape[-1]

    def measured(self) -> list[ActiveNeurons]:
        """Of all layers."""
        tokens = max(1, self.tokens)
        return [
            ActiveNeurons(layer, width, active / tokens, holding / tokens)
            for layer, width, (active, holding) in zip(self.layers, self.widths, self.sums, strict=True)
        ]


@torch.no_grad()
def measure_active(
    encoder: UltraFastBertModel, layers: tuple[int, ...], batches: Iterable[Batch]
) -> list[ActiveNeurons]:
    """Of these layers of `encoder` on some text, in float32."""
    tally = ActiveTally(layers)
    with record_active(encoder, layers) as found:
        for batch in batches:
            encoder.encode(batch.input_ids, batch.attention_mask, batch.token_type_ids)
            tally.add(found, batch.attention_mask)
    return tally.measured()


def active_rows(pairs: Iterable[tuple[ActiveNeurons, ActiveNeurons]]) -> list[list[str]]:
    """A row of `ACTIVE_COLUMNS` for each layer, counted from 0, of original and student."""
    return [
        [
            f"layer {ours.layer}, of {ours.width:,}",
            *(f"{value:.0f}" for value in (theirs.active, ours.active, theirs.holding, ours.holding)),
        ]
        for theirs, ours in pairs
    ]
