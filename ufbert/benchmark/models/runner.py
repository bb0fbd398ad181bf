"""One whole model in one way of training it: built, checked, and made a function to time."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.fff import FFF, masked_dense_fff
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.settings.sections import TrainingSettings
from ufbert.system.devices import autocast
from ufbert.training.optimization import build_optimizer

from .step_parts import STEP_PARTS, StepTimers, saved_by_feedforward

__all__ = ["VARIANTS", "ModelRunner", "Variant"]

# Relative error of the median token's hidden state against the reference backend. Single tokens may differ
# more: a decision within rounding of a tie goes another way, and attention carries it on.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Variant:
    """A way to run one of the two models."""

    name: str
    feedforward: str
    compiled: bool = False
    masked: bool = False
    """As the published code trains: every neuron by dense products under autograd, all but the path masked away."""


VARIANTS = (
    Variant("torch-eager", "dense"),
    Variant("torch-compiled", "dense", compiled=True),
    Variant("ufbert", "fff"),
    Variant("ufbert-compiled", "fff", compiled=True),
    Variant("torch-masked", "fff", masked=True),
)


class MaskedFFF(nn.Module):
    """A fast feedforward layer in the published formulation; the same parameters under the same names."""

    def __init__(self, layer: FFF) -> None:
        super().__init__()
        self.w_in, self.b_in, self.w_out = layer.w_in, layer.b_in, layer.w_out
        self.shared = layer.shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., H) -> (..., H)."""
        y = masked_dense_fff(x.reshape(-1, x.shape[-1]), self.w_in, self.b_in, self.w_out).reshape(x.shape)
        return y if self.shared is None else y + self.shared(x)


class ModelRunner:
    """One model in one variant."""

    def __init__(self, config: UltraFastBertConfig, variant: Variant, device: torch.device, *, seed: int) -> None:
        self.variant, self.device = variant, device
        torch.manual_seed(seed)
        self.model = UltraFastBertForMaskedLM(config).to(device).train()
        self.training = TrainingSettings()
        self.optimizer = build_optimizer(self.model, self.training)
        if variant.masked:
            for layer in self.encoder.layers:
                trees = layer.get_submodule("feedforward")
                assert isinstance(trees, FFF)
                layer.register_module("feedforward", MaskedFFF(trees))
        if variant.compiled:
            # The layers are alike, so one compilation serves all.
            for layer in self.encoder.layers:
                layer.compile(dynamic=False)

    @property
    def encoder(self) -> UltraFastBertModel:
        """The model without a head."""
        return self.model.encoder

    def set_backend(self, name: str) -> None:
        """Of all fast feedforward layers."""
        for module in self.model.modules():
            if isinstance(module, FFF):
                module.backend = name

    def step(self, dtype: str) -> Callable[[Any], Any]:
        """The function that is timed: a whole training step."""

        def step(batch: tuple[torch.Tensor, ...]) -> Any:
            loss = self.loss(batch, dtype)
            loss.backward()
            for action in self.after_backward().values():
                action()
            return loss

        return step

    def after_backward(self) -> dict[str, Callable[[], object]]:
        """What a step of the recipe does once the gradients are there, by name."""
        return {
            "clip": lambda: nn.utils.clip_grad_norm_(self.model.parameters(), self.training.gradient_clip),
            "AdamW": self.optimizer.step,
            "zero_grad": lambda: self.optimizer.zero_grad(set_to_none=True),
        }

    def take_apart(self, batches: Sequence[Any], dtype: str, steps: int) -> dict[str, float]:
        """Seconds of a step by part, each the median of `steps` after one to warm up; empty for compiled layers."""
        if self.variant.compiled:
            return {}
        timers = StepTimers(self.model, self.device)
        taken: list[dict[str, float]] = []
        try:
            for number in range(steps + 1):
                timers.seconds = dict.fromkeys(STEP_PARTS, 0.0)
                batch = batches[number % len(batches)]
                timers.take(functools.partial(self.loss, batch, dtype), self.after_backward())
                taken.append(timers.seconds)
        finally:
            timers.detach()
        return {part: statistics.median(seconds[part] for seconds in taken[1:]) for part in STEP_PARTS}

    def saved_bytes(self, batch: tuple[torch.Tensor, ...], dtype: str) -> int:
        """What all feedforward layers keep of a batch for its backward pass."""
        losses: list[torch.Tensor] = []
        return saved_by_feedforward(self.encoder, lambda: losses.append(self.loss(batch, dtype)))

    def loss(self, batch: tuple[torch.Tensor, ...], dtype: str) -> torch.Tensor:
        """The forward pass alone."""
        with autocast(self.device, getattr(torch, dtype)):
            loss: torch.Tensor | None = self.model(batch[0], labels=batch[1]).loss
        assert loss is not None
        return loss

    def wrong(self, batch: tuple[torch.Tensor, ...], dtype: str) -> str:
        """Why the model's hidden states differ from the reference backend's; empty if they do not."""
        if self.variant.feedforward != "fff" or self.variant.masked:
            return ""
        states = []
        with torch.inference_mode(), autocast(self.device, getattr(torch, dtype)):
            for backend in ("reference", "auto"):
                self.set_backend(backend)
                states.append(self.encoder.encode(batch[0][:1]).double())
        expected, given = states
        error = float(((given - expected).norm(dim=-1) / expected.norm(dim=-1)).median())
        if error <= TOLERANCE[dtype]:
            return ""
        return f"hidden states differ from the reference backend's by {error:.2g} (allowed: {TOLERANCE[dtype]:g})"
