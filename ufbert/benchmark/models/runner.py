"""One whole model in one way of training it: built, checked, and made a function to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ufbert.model.config import UltraFastBertConfig
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.fff import FFF
from ufbert.model.heads import UltraFastBertForMaskedLM
from ufbert.settings.sections import TrainingSettings
from ufbert.system.devices import autocast
from ufbert.training.optimization import build_optimizer

__all__ = ["VARIANTS", "ModelRunner", "Variant"]

# Relative error of the median token's hidden state against the reference backend. Single tokens may differ
# more: a decision within rounding of a tie goes another way, and attention carries it on.
TOLERANCE = {"float32": 1e-4, "bfloat16": 2e-2}


@dataclass(frozen=True)
class Variant:
    """A way to run one of the two models."""

    name: str
    feedforward: str
    backend: str = "auto"
    compiled: bool = False
    default: bool = True


VARIANTS = (
    Variant("torch-eager", "dense"),
    Variant("torch-compiled", "dense", compiled=True),
    Variant("ufbert", "fff"),
    Variant("ufbert-compiled", "fff", compiled=True),
    Variant("torch-masked", "fff", backend="reference", default=False),
)


class ModelRunner:
    """One model in one variant."""

    def __init__(self, config: UltraFastBertConfig, variant: Variant, device: torch.device, *, seed: int) -> None:
        self.variant, self.device = variant, device
        torch.manual_seed(seed)
        self.model = UltraFastBertForMaskedLM(config).to(device).train()
        self.optimizer = build_optimizer(self.model, TrainingSettings())
        self.set_backend(variant.backend)
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
        device, precision = self.device, getattr(torch, dtype)
        model = self.model

        def step(batch: tuple[torch.Tensor, ...]) -> Any:
            with autocast(device, precision):
                loss = model(batch[0], labels=batch[1]).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return loss

        return step

    def wrong(self, batch: tuple[torch.Tensor, ...], dtype: str) -> str:
        """Why the model's hidden states differ from the reference backend's; empty if they do not."""
        if self.variant.feedforward != "fff" or self.variant.backend == "reference":
            return ""
        states = []
        with torch.inference_mode(), autocast(self.device, getattr(torch, dtype)):
            for backend in ("reference", self.variant.backend):
                self.set_backend(backend)
                states.append(self.encoder.encode(batch[0][:1]).double())
        expected, given = states
        error = float(((given - expected).norm(dim=-1) / expected.norm(dim=-1)).median())
        if error <= TOLERANCE[dtype]:
            return ""
        return f"hidden states differ from the reference backend's by {error:.2g} (allowed: {TOLERANCE[dtype]:g})"
