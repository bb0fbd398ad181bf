"""A layer whose feedforward is left out: what of it the rest of the layer can say without one.

In a pre-norm model that is the mean output, which goes into the output bias of the attention, if it has one. In a
post-norm model the second norm goes too, and the norm before it gets the scale and shift that bring each coordinate
nearest to what the second one put out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ufbert.model.encoder import Layer

from .layer_inputs import LayerSample
from .layer_regression import sublayer

__all__ = ["LeftOut", "leave_out"]


@dataclass(frozen=True)
class LeftOut:
    """What stands for the feedforward layer: `scale * x + shift`, both (H,), of what the next layer gets."""

    scale: torch.Tensor
    shift: torch.Tensor

    @torch.no_grad()
    def put_into(self, student: Layer) -> None:
        """Let the rest of the layer say it."""
        if student.pre_norm:
            if student.attention.output.bias is not None:
                student.attention.output.bias.add_(self.shift)
            return
        norm = student.attention_norm
        assert isinstance(norm, torch.nn.LayerNorm)
        norm.weight.mul_(self.scale)
        if norm.bias is not None:
            norm.bias.mul_(self.scale).add_(self.shift)

    @torch.no_grad()
    def relative_error(self, teacher: Layer, sample: LayerSample, mean: torch.Tensor) -> float:
        """As `layer_regression.relative_error`: over that of always putting out `mean` (H,)."""
        x, y = sample.x.float(), sample.y.float()
        wanted = sublayer(teacher, x, y)
        error = (self.scale * x + self.shift - wanted).square().sum()
        baseline = (sublayer(teacher, x, mean.expand_as(y)) - wanted).square().sum()
        return math.sqrt(float(error) / max(float(baseline), 1e-30))


@torch.no_grad()
def leave_out(student: Layer, teacher: Layer, sample: LayerSample) -> LeftOut:
    """What the rest of `student` can say of the teacher's feedforward layer with these inputs and outputs."""
    x, y = sample.x.float(), sample.y.float()
    nothing = torch.zeros_like(x[0])
    if teacher.pre_norm:
        shift = torch.zeros_like(nothing) if student.attention.output.bias is None else y.mean(0)
        return LeftOut(nothing, shift)  # two tensors also where both are zero: a file holds none twice
    wanted, shifts = sublayer(teacher, x, y), student.attention_norm.bias is not None
    x_mean, mean = (x.mean(0), wanted.mean(0)) if shifts else (nothing, nothing)
    scale = ((x - x_mean) * (wanted - mean)).sum(0) / (x - x_mean).square().sum(0).clamp(min=1e-12)
    return LeftOut(scale, mean - scale * x_mean)
