"""Where the time of a training step goes, and what its forward pass keeps for the backward one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.heads import UltraFastBertForMaskedLM

__all__ = ["STEP_PARTS", "StepTimers", "saved_by_feedforward"]

MODULES = ("embedding", "norm", "projections", "attention", "feedforward", "head")
REST = "rest"
STEP_PARTS = (
    *(f"forward {module}" for module in (*MODULES, REST)),
    *(f"backward {module}" for module in (*MODULES[1:], REST)),
    "clip",
    "AdamW",
    "zero_grad",
)
"""`attention` is without its projections; a backward `rest` holds the embedding's gradient and the residual sums."""


def parts_of(model: UltraFastBertForMaskedLM) -> Iterator[tuple[nn.Module, str]]:
    """The modules to watch, each with the part that its own time belongs to."""
    encoder = model.encoder
    yield encoder.embeddings, "embedding"
    for layer in encoder.layers:
        yield layer.get_submodule("attention"), "attention"
        yield from ((child, "projections") for child in layer.get_submodule("attention").children())
        yield from ((child, "norm") for child in layer.children() if isinstance(child, nn.LayerNorm))
        yield layer.get_submodule("feedforward"), "feedforward"
    if encoder.final_norm is not None:
        yield encoder.final_norm, "norm"
    yield from ((head, "head") for head in (model.transform, model.decoder) if head is not None)


class StepTimers:
    """Seconds of a step by part; a part inside another one is counted once, as its own."""

    def __init__(self, model: UltraFastBertForMaskedLM, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(STEP_PARTS, 0.0)
        self._pass = "forward"
        self._open: list[str] = []
        self._last = 0.0
        self._handles: list[Any] = []
        for module, part in parts_of(model):
            self._watch(module, part)

    def _watch(self, module: nn.Module, part: str) -> None:
        def enter(*_: Any) -> None:
            self._count()
            self._open.append(part)

        def leave(*_: Any) -> None:
            self._count()
            self._open.pop()

        self._handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
        if part != "embedding":  # the gradient of token numbers does not exist, so nothing would tell its end
            self._handles += [
                module.register_full_backward_pre_hook(enter),
                module.register_full_backward_hook(leave),
            ]

    def take(self, forward: Callable[[], torch.Tensor], after: dict[str, Callable[[], object]]) -> None:
        """One step: `forward()` gives the loss, `after` names what follows its backward pass, in order."""
        self._pass, self._last = "forward", self._now()
        loss = forward()
        self._count()
        self._pass = "backward"
        loss.backward()
        self._count()
        for part, action in after.items():
            action()
            now = self._now()
            self.seconds[part] += now - self._last
            self._last = now

    def detach(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()

    def _count(self) -> None:
        now = self._now()
        self.seconds[f"{self._pass} {self._open[-1] if self._open else REST}"] += now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def saved_by_feedforward(encoder: UltraFastBertModel, run: Callable[[], object]) -> int:
    """Bytes that all feedforward layers keep for the backward pass while `run()` goes forward.

    The layers' inputs and weights do not count: every kind of layer has the one for its gradients, and the others
    are there in any case.
    """
    kept: dict[int, int] = {}
    stacks: list[Any] = []

    def enter(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        given = {t.untyped_storage().data_ptr() for t in (*inputs, *module.parameters())}
        widths = {t.shape[-1:] for t in inputs}
        weights = {p.numel() for p in module.parameters() if p.ndim > 1}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            # Under autocast the input and the weights are there a second time, in another precision.
            copied = tensor.shape[-1:] in widths or tensor.numel() in weights
            if storage.data_ptr() not in given and not copied:
                kept[storage.data_ptr()] = max(kept.get(storage.data_ptr(), 0), storage.nbytes())
            return tensor

        hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
        hooks.__enter__()
        stacks.append(hooks)

    def leave(*_: Any) -> None:
        stacks.pop().__exit__()

    handles = [
        handle
        for module in (layer.get_submodule("feedforward") for layer in encoder.layers)
        for handle in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return sum(kept.values())
