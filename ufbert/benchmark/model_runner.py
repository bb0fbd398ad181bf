"""One whole model in one way of running it: built, checked, and made a function to time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ufbert.config import UltraFastBertConfig
from ufbert.devices import autocast
from ufbert.encoder import UltraFastBertModel
from ufbert.fff import FFF
from ufbert.heads import UltraFastBertForMaskedLM
from ufbert.optimization import build_optimizer
from ufbert.sections import TrainingSettings

from .operands import TreeWeights
from .paths import path_statistics
from .reference import route

__all__ = ["VARIANTS", "Runner", "Variant"]

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


class Runner:
    """One model in one variant."""

    def __init__(
        self, config: UltraFastBertConfig, variant: Variant, device: torch.device, *, training: bool, seed: int
    ) -> None:
        self.variant, self.device, self.training = variant, device, training
        torch.manual_seed(seed)
        self.model: UltraFastBertModel | UltraFastBertForMaskedLM
        if training:
            self.model = UltraFastBertForMaskedLM(config).to(device).train()
            self.optimizer = build_optimizer(self.model, TrainingSettings())
        else:
            self.model = UltraFastBertModel(config).to(device).eval()
        self.set_backend(variant.backend)
        if variant.compiled:
            # The layers are alike, so one compilation serves all.
            for layer in self.encoder.layers:
                layer.compile(dynamic=False)

    @property
    def encoder(self) -> UltraFastBertModel:
        """The model without a head."""
        return self.model.encoder if isinstance(self.model, UltraFastBertForMaskedLM) else self.model

    def set_backend(self, name: str) -> None:
        """Of all fast feedforward layers."""
        for module in self.model.modules():
            if isinstance(module, FFF):
                module.backend = name

    def call(self, dtype: str) -> Callable[[Any], Any]:
        """The function that is timed: a forward pass, or a whole training step."""
        device, precision = self.device, getattr(torch, dtype)
        model = self.model

        def forward(batch: tuple[torch.Tensor, ...]) -> Any:
            with torch.inference_mode(), autocast(device, precision):
                return model(batch[0])

        def step(batch: tuple[torch.Tensor, ...]) -> Any:
            with autocast(device, precision):
                loss = model(batch[0], labels=batch[1]).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            return loss

        return step if self.training else forward

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

    def describe_paths(self, input_ids: torch.Tensor, seed: int) -> dict[str, Any]:
        """Path statistics of what reaches each layer for input_ids (B, T), as means over the layers."""
        seen: list[dict[str, Any]] = []

        def look(module: FFF, inputs: tuple[torch.Tensor, ...], _output: Any) -> None:
            weights = TreeWeights(module.w_in.detach(), module.b_in.detach(), module.w_out.detach())
            leaves = route(inputs[0].reshape(-1, module.hidden_size), weights)
            seen.append(path_statistics(leaves.cpu().numpy(), module.depth, (), seed))

        hooks = [m.register_forward_hook(look) for m in self.model.modules() if isinstance(m, FFF)]
        with torch.inference_mode():
            self.encoder.encode(input_ids)
        for hook in hooks:
            hook.remove()
        if not seen:
            return {}
        means = {
            name: np.mean([layer[name] for layer in seen], axis=0).tolist() for name in seen[0] if name != "batches"
        }
        return {**means, "layers": len(seen), "least_distinct_leaves": min(s["distinct_leaves"] for s in seen)}
