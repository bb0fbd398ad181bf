"""One dense layer with its real inputs on some text, in chunks, and the measure of every substitute for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ufbert.conversion.distillation.layer_inputs import LayerSample
from ufbert.conversion.distillation.layer_regression import sublayer
from ufbert.conversion.distillation.token_rows import RankedTokens, error_weights
from ufbert.model.encoder import DenseFeedforward, Layer

__all__ = ["Chunk", "LayerUnderStudy"]

CHUNK = 4096  # tokens


@dataclass(frozen=True)
class Chunk:
    """Some tokens of one layer, float32."""

    x: torch.Tensor
    """What the dense layer is given, (n, H)."""
    activations: torch.Tensor
    """What its neurons put out, (n, I); of a gated layer the products."""
    y: torch.Tensor
    """What the layer puts out, (n, H)."""
    token_ids: torch.Tensor | None
    """Which tokens they are, (n,); None where that is not known."""
    weights: torch.Tensor
    """By how much the norm behind the layer multiplies an error at the token, (n, 1); 1 where there is none."""


class LayerUnderStudy:
    """A layer, its inputs (tokens, H) to fit on and to measure on, and the mean output on the former.

    **Error** of a substitute whose outputs are y_hat, on the held-out tokens:

        sum |norm(x + y_hat) - norm(x + y)|^2  /  sum |norm(x + mean) - norm(x + y)|^2

    which is relative and squared, with the mean removed: 0 is exact, 1 is as good as always putting out the mean of
    y over the fitting tokens. In a pre-norm model nothing stands between a layer's output and the residual stream, and
    it is sum |y_hat - y|^2 / sum |mean - y|^2. `ufbert convert` prints its square root.
    """

    def __init__(
        self,
        layer: Layer,
        fitting: torch.Tensor,
        held_out: torch.Tensor,
        *,
        tokens: RankedTokens | None = None,
        fitting_ids: torch.Tensor | None = None,
        held_out_ids: torch.Tensor | None = None,
    ) -> None:
        """`tokens` and the ids (tokens,) of both are for token rows; without them these are left out."""
        assert isinstance(layer.feedforward, DenseFeedforward)
        self.layer, self.dense = layer, layer.feedforward
        self.fitting, self.held_out = fitting, held_out
        self.tokens, self.fitting_ids, self.held_out_ids = tokens, fitting_ids, held_out_ids
        sums = torch.stack([chunk.y.double().sum(0) for chunk in self.chunks(fitting)])
        self.mean = (sums.sum(0) / len(fitting)).float()  # (H,)
        self._scale = self._squares(lambda chunk: self.mean.expand_as(chunk.y))

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.dense.linear_out.weight.device

    def sample(self) -> LayerSample:
        """What is fitted on, as the distillation has it."""
        y = torch.cat([chunk.y.to(self.fitting.dtype) for chunk in self.chunks(self.fitting)])
        return LayerSample(self.fitting, y, self.fitting_ids)

    def chunks(self, inputs: torch.Tensor, token_ids: torch.Tensor | None = None) -> Iterator[Chunk]:
        """`inputs` (tokens, H) a few at a time, and which tokens they are."""
        for start in range(0, len(inputs), CHUNK):
            x = inputs[start : start + CHUNK].float()
            activations = self.dense.activations(x)
            y = self.dense.linear_out(activations)
            ids = None if token_ids is None else token_ids[start : start + CHUNK]
            yield Chunk(x, activations, y, ids, error_weights(self.layer, x, y).sqrt())

    def error(self, substitute: Callable[[Chunk], torch.Tensor]) -> float:
        """Of what `substitute` makes of a chunk, (n, H), on the held-out tokens; see the class."""
        return self._squares(substitute) / max(self._scale, 1e-30)

    def _squares(self, substitute: Callable[[Chunk], torch.Tensor]) -> float:
        total = 0.0
        for chunk in self.chunks(self.held_out, self.held_out_ids):
            difference = sublayer(self.layer, chunk.x, substitute(chunk)) - sublayer(self.layer, chunk.x, chunk.y)
            total += float(difference.double().square().sum())
        return total
