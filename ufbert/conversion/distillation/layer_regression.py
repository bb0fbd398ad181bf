"""Per-layer regression: each new feedforward layer learns its dense layer's output, on its own.

In a post-norm model the sum of the layer's input and output is normed at once, which takes away a few huge
coordinates that would otherwise be all the error there is; so there the error is measured behind the norm.
(Layer 2 of all-MiniLM-L6-v2: a linear map alone gets the bare output to 3 % of its variance, behind the norm
only to 51 %.)
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from ufbert.model.encoder import DenseFeedforward, Layer
from ufbert.model.fff import FFF
from ufbert.system.devices import autocast
from ufbert.training.budget import TrainingBudget
from ufbert.training.optimization import set_learning_rate
from ufbert.training.schedules import one_cycle

from .kept_phase import KeptPhase
from .layer_inputs import LayerSample

__all__ = ["relative_error", "sublayer", "train_layer"]

TOKENS = 2048  # of a step
# A layer alone takes a higher rate than the whole: 3e-3 beat 1e-3 and 1e-2 on all-MiniLM-L6-v2.
PEAK_RATE = 3e-3
BETAS = (0.9, 0.98)


def train_layer(
    student: FFF | DenseFeedforward,
    teacher: Layer,
    sample: LayerSample,
    *,
    budget: TrainingBudget,
    precision: torch.dtype,
    generator: torch.Generator,
    report: Callable[[float], None],
    phase: KeptPhase,
) -> None:
    """Adam on random tokens of `sample` until the budget ends; `report` gets every step's loss.

    `phase` keeps the training on the way, and takes up what was kept.
    """
    optimizer = torch.optim.Adam(student.parameters(), lr=PEAK_RATE, betas=BETAS, fused=True)
    device = sample.x.device
    first = slice(0, 8192)
    scale = _error(teacher, sample.x[first], sample.y[first].float().mean(0), sample.y[first])
    phase.begin(dict(student.named_parameters()), optimizer)
    while (done := budget.fraction()) < 1.0:
        set_learning_rate(optimizer, PEAK_RATE * one_cycle(done))
        chosen = torch.randint(len(sample.x), (TOKENS,), generator=generator).to(device)
        x, y = sample.x[chosen].float(), sample.y[chosen].float()
        with autocast(device, precision):
            output = student(x)
        loss = sublayer(teacher, x, output.float()).sub(sublayer(teacher, x, y)).square().sum(1).mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        budget.count()
        report(float(loss.detach()))
        phase.after_step()


@torch.no_grad()
def relative_error(student: FFF | DenseFeedforward, teacher: Layer, sample: LayerSample, mean: torch.Tensor) -> float:
    """Root of the error over that of always putting out `mean` (H,): 0 is exact, 1 is the constant output."""
    error = baseline = 0.0
    for start in range(0, len(sample.x), 4096):
        x, y = sample.x[start : start + 4096].float(), sample.y[start : start + 4096].float()
        output = student(x)
        error += _error(teacher, x, output, y) * len(x)
        baseline += _error(teacher, x, mean, y) * len(x)
    return math.sqrt(error / max(baseline, 1e-30))


@torch.no_grad()
def _error(teacher: Layer, x: torch.Tensor, output: torch.Tensor, y: torch.Tensor) -> float:
    """Mean squared distance between two feedforward outputs, behind the norm if there is one."""
    x, y = x.float(), y.float()
    difference = sublayer(teacher, x, output.expand_as(y)) - sublayer(teacher, x, y)
    return max(float(difference.square().sum(1).mean()), 1e-12)


def sublayer(teacher: Layer, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """What the next layer gets of a feedforward output (tokens, H) for the input x."""
    if teacher.pre_norm:
        return output
    assert teacher.feedforward_norm is not None
    normed: torch.Tensor = teacher.feedforward_norm(x + output)
    return normed
