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
from .token_rows import RankedRows

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
    rows: RankedRows | None = None,
) -> None:
    """Adam on random tokens of `sample` until the budget ends; `report` gets every step's loss.

    `phase` keeps the training on the way, and takes up what was kept. `rows` stand beside the neurons as they are.
    """
    optimizer = torch.optim.Adam(student.parameters(), lr=PEAK_RATE, betas=BETAS, fused=True)
    device = sample.x.device
    first = slice(0, 8192)
    scale = _error(teacher, sample.x[first], sample.y[first].float().mean(0), sample.y[first])
    kept = dict(student.named_parameters())
    phase.begin(kept if rows is None else {**kept, "token_rows.weight": rows.rows.weight}, optimizer)
    while (done := budget.fraction()) < 1.0:
        set_learning_rate(PEAK_RATE * one_cycle(done), optimizer)
        chosen = torch.randint(len(sample.x), (TOKENS,), generator=generator).to(device)
        x, y = sample.x[chosen].float(), sample.y[chosen].float()
        with autocast(device, precision):
            output = student(x)
        output = _beside(output.float(), rows, sample, chosen)
        loss = sublayer(teacher, x, output).sub(sublayer(teacher, x, y)).square().sum(1).mean() / scale
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        budget.count()
        report(float(loss.detach()))
        phase.after_step()


def _beside(
    output: torch.Tensor, rows: RankedRows | None, sample: LayerSample, chosen: torch.Tensor | slice
) -> torch.Tensor:
    """What neurons put out (n, H) for the chosen tokens, and their rows, which are not trained by it."""
    if rows is None:
        return output
    assert sample.token_ids is not None
    return output + rows(sample.token_ids[chosen]).detach()


@torch.no_grad()
def relative_error(
    student: FFF | DenseFeedforward | None,
    teacher: Layer,
    sample: LayerSample,
    mean: torch.Tensor,
    rows: RankedRows | None = None,
) -> float:
    """Root of the error over that of always putting out `mean` (H,): 0 is exact, 1 is the constant output.

    Of neurons, of `rows`, or of both together.
    """
    error = baseline = 0.0
    for start in range(0, len(sample.x), 4096):
        part = slice(start, start + 4096)
        x, y = sample.x[part].float(), sample.y[part].float()
        output = _beside(torch.zeros_like(y) if student is None else student(x), rows, sample, part)
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
