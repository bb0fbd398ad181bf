"""What tests do to pretraining runs, and read from them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
import torch

from ufbert import UltraFastBertForMaskedLM
from ufbert.pretraining.step import StepResult, TrainingStep


def at_step(step: int, act: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Call `act` when the run begins its step number `step`, once."""
    original = TrainingStep.take
    done: list[int] = []

    def take(self: TrainingStep, number: int, *rest: Any) -> StepResult | None:
        if number == step and not done:
            done.append(number)
            act()
        return original(self, number, *rest)

    monkeypatch.setattr(TrainingStep, "take", take)


def interrupt() -> None:
    """Ctrl-C."""
    os.kill(os.getpid(), signal.SIGINT)


def weights(folder: str) -> dict[str, torch.Tensor]:
    """All parameters of a checkpoint."""
    return dict(UltraFastBertForMaskedLM.from_pretrained(folder).named_parameters())
