"""One phase of the training, a layer's regression or the end-to-end part, kept on the way and taken up again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from ufbert.errors import OutputError
from ufbert.settings.distillation import DistillationSettings
from ufbert.system.interruption import Interruption
from ufbert.training.budget import TrainingBudget

from .partial import PartialConversion

__all__ = [
    "ConversionStopped",
    "KeptPhase",
    "new_budget",
    "random_states",
    "restore_random_states",
    "stop_if_terminated",
]


class ConversionStopped(Exception):
    """SIGTERM has ended a distillation that goes on with --resume."""

    exit_code = 128 + signal.SIGTERM


def stop_if_terminated(interruption: Interruption) -> None:
    """Raise `ConversionStopped` if SIGTERM came: what sends it seldom leaves the time to measure and to write."""
    if interruption.received is signal.SIGTERM:
        raise ConversionStopped


def new_budget(
    seconds: float | None, settings: DistillationSettings, interruption: Interruption, most: int | None = None
) -> TrainingBudget:
    """Of one phase: so many seconds, but at most `most` steps, or the settings' steps; unless Ctrl-C comes first."""
    steps = settings.steps or (None if seconds is None else most)
    return TrainingBudget(seconds=seconds, steps=steps, stopped=lambda: interruption.requested)


class KeptPhase:
    """Keeps a phase every minute and at a signal; `begin` takes up what an earlier session has kept of it."""

    def __init__(
        self,
        partial: PartialConversion,
        name: str,
        budget: TrainingBudget,
        interruption: Interruption,
        generator: torch.Generator | None = None,
    ) -> None:
        self.partial, self.name, self.budget, self.interruption = partial, name, budget, interruption
        self.generator = generator
        self.kept = partial.training(name)
        """What an earlier session has kept of it beside the tensors: `steps`, `seconds` and its facts."""
        self.facts: Callable[[], Mapping[str, Any]] = dict
        """What is to be kept beside steps and seconds."""

    @property
    def share_before(self) -> float:
        """How much of the phase an earlier session has done, by its budget."""
        return self.budget.share(self.kept["steps"], self.kept["seconds"]) if self.kept else 0.0

    def begin(self, parameters: Mapping[str, nn.Parameter], *optimizers: torch.optim.Optimizer) -> None:
        """The training of `parameters` is about to begin, each with one of the optimisers or as it is.

        Raises `OutputError` for a state that does not fit them.
        """
        self.parameters = dict(parameters)
        self.optimizers = {
            p: optimizer for optimizer in optimizers for g in optimizer.param_groups for p in g["params"]
        }
        if self.kept:
            self._restore(self.partial.read_training())
            self.budget.go_on(self.kept["steps"], self.kept["seconds"])
        stop_if_terminated(self.interruption)
        self.partial.frozen |= self.interruption.requested

    def after_step(self) -> None:
        """A step was taken and counted. Raises `ConversionStopped` after SIGTERM."""
        if self.interruption.requested:
            self._keep()
            stop_if_terminated(self.interruption)
            self.partial.frozen = True
        elif self.partial.due:
            self._keep()

    def end(self) -> None:
        """Keep the phase as it ended, for a session that is interrupted in what follows."""
        self._keep()

    def _keep(self) -> None:
        facts = {"steps": self.budget.steps_done, "seconds": self.budget.spent, **self.facts()}
        self.partial.keep_training(self.name, self._tensors(), **facts)

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors: dict[str, torch.Tensor] = {**random_states(self.generator)}
        for name, parameter in self.parameters.items():
            tensors[f"weight/{name}"] = parameter
            if (optimizer := self.optimizers.get(parameter)) is not None:
                for kind, value in optimizer.state.get(parameter, {}).items():
                    tensors[f"{kind}/{name}"] = torch.as_tensor(value)  # SparseAdam counts steps without a tensor
        return tensors

    @torch.no_grad()
    def _restore(self, tensors: Mapping[str, torch.Tensor]) -> None:
        restore_random_states(tensors, self.generator)
        for key, value in tensors.items():
            kind, _, name = key.partition("/")
            if kind == "random":
                continue
            parameter = self.parameters.get(name)
            if parameter is None or (value.ndim and value.shape != parameter.shape):
                raise OutputError(f"{self.partial.folder}: its {key} does not fit the model; delete the folder")
            if kind == "weight":
                parameter.copy_(value)
            elif isinstance(optimizer := self.optimizers[parameter], torch.optim.SparseAdam) and kind == "step":
                optimizer.state[parameter][kind] = int(value)
            else:
                # A fused optimiser wants its step count where the parameter is.
                optimizer.state[parameter][kind] = value.to(parameter.device)


def random_states(generator: torch.Generator | None) -> dict[str, torch.Tensor]:
    """torch's own and that of `generator`."""
    states = {"random/torch": torch.get_rng_state()}
    return states if generator is None else {**states, "random/generator": generator.get_state()}


def restore_random_states(tensors: Mapping[str, torch.Tensor], generator: torch.Generator | None) -> None:
    """What `random_states` gave, back again."""
    torch.set_rng_state(tensors["random/torch"])
    if generator is not None:
        generator.set_state(tensors["random/generator"])
