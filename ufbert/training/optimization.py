"""AdamW as the trainings use it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ufbert.settings.sections import TrainingSettings

from .level_updates import LevelUpdates

__all__ = ["build_optimizer", "named_parameters", "parameter_groups", "set_learning_rate"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of named parameters for AdamW: matrices with `weight_decay`, and without it norms, biases and scales.

    An FFF's `b_in` is a bias although it has two dimensions.
    """
    decayed: list[tuple[str, nn.Parameter]] = []
    plain: list[tuple[str, nn.Parameter]] = []
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        is_bias = last in ("bias", "b_in", "b_out")
        (plain if is_bias or parameter.ndim < 2 else decayed).append((name, parameter))
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]


def build_optimizer(model: nn.Module, training: TrainingSettings) -> torch.optim.AdamW:
    """AdamW in the fused form, which goes over each parameter once; with `training.level_updates`, of levels too."""
    levels = LevelUpdates(model) if training.level_updates else None
    optimizer = torch.optim.AdamW(
        parameter_groups(model, training.weight_decay) + (levels.groups() if levels else []),
        lr=training.peak_learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=True,
    )
    if levels:
        levels.attach(optimizer)
    return optimizer


def named_parameters(optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """What it optimises, by the names that `parameter_groups` gave: the model's, and the levels of trees."""
    return {
        name: parameter
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def set_learning_rate(learning_rate: float, *optimizers: torch.optim.Optimizer) -> None:
    """The learning rate of the next step, in every group."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
