"""AdamW as the trainings use it."""

from __future__ import annotations

import torch
from torch import nn

from ufbert.settings.sections import TrainingSettings

__all__ = ["build_optimizer", "parameter_groups", "set_learning_rate"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Two groups for AdamW: matrices with `weight_decay`, and without it norms, biases and scales.

    An FFF's `b_in` is a bias although it has two dimensions.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        is_bias = last in ("bias", "b_in", "b_out")
        (plain if is_bias or parameter.ndim < 2 else decayed).append(parameter)
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, training: TrainingSettings) -> torch.optim.AdamW:
    """AdamW in the fused form, which goes over each parameter once."""
    return torch.optim.AdamW(
        parameter_groups(model, training.weight_decay),
        lr=training.peak_learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=True,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """The learning rate of the next step, in every group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
