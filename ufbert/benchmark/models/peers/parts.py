"""Where a token's time goes: timers around the parts of our encoder while it runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ufbert.inference.engine.attention import PackedAttention
from ufbert.inference.engine.feedforward import PackedFeedforward, PackedTrees
from ufbert.model.attention import SelfAttention
from ufbert.model.encoder import DenseFeedforward, Embeddings
from ufbert.model.fff import FFF
from ufbert.model.token_rows import TokenRows

from .ours import Ours

__all__ = ["PARTS", "time_parts"]

ATTENTION = (SelfAttention, PackedAttention)
TREES = (FFF, PackedTrees)
FEEDFORWARD = "FFF"
DENSE = "feedforward"
REST = "rest"
PARTS = ("embedding", "norm", "projections", "attention", FEEDFORWARD, REST)
"""`attention` is without its projections; `rest` is everything between the modules, the residual sums that no
product takes along included. `FFF` is called `feedforward` where the layers are dense."""


def part_of(module: nn.Module) -> str | None:
    """The part that a module's own time belongs to; None counts it to the module around it."""
    if isinstance(module, Embeddings):
        return "embedding"
    if isinstance(module, nn.LayerNorm):
        return "norm"
    if isinstance(module, (*TREES, DenseFeedforward, PackedFeedforward, TokenRows)):
        return FEEDFORWARD
    if isinstance(module, ATTENTION):
        return "attention"
    return None


class Timers:
    """Seconds by part; a part inside another one is counted once, as its own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._open: list[str] = []
        self._last = 0.0
        self._handles: list[Any] = []

    def attach(self, encoder: nn.Module) -> None:
        """Watch the encoder's modules."""
        inside_attention = {
            id(child) for module in encoder.modules() if isinstance(module, ATTENTION) for child in module.children()
        }
        inside_embedding = {
            id(child) for module in encoder.modules() if isinstance(module, Embeddings) for child in module.modules()
        }
        for module in encoder.modules():
            part = "projections" if id(module) in inside_attention else part_of(module)
            if part is None or (id(module) in inside_embedding and not isinstance(module, Embeddings)):
                continue
            self._watch(module, part)

    def _watch(self, module: nn.Module, part: str) -> None:
        def enter(_module: nn.Module, _inputs: Any) -> None:
            self._count()
            self._open.append(part)

        def leave(_module: nn.Module, _inputs: Any, _output: Any) -> None:
            self._count()
            self._open.pop()

        self._handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    def start(self) -> None:
        """From here on, time counts as `rest` unless a part is open."""
        self._last = self._now()

    def stop(self) -> None:
        """The end of a call."""
        self._count()

    def detach(self) -> None:
        """Remove every hook."""
        for handle in self._handles:
            handle.remove()

    def _count(self) -> None:
        now = self._now()
        self.seconds[self._open[-1] if self._open else REST] += now - self._last
        self._last = now

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def time_parts(ours: Ours, inputs: Sequence[torch.Tensor], calls: int) -> dict[str, Any]:
    """Seconds of a call by part, as means of `calls`, and the calls' mean with and without the timers.

    Calls with and without timers alternate, so that `whole` and `plain` meet the same machine.
    """
    plain = 0.0
    timers = Timers(ours.device)
    timers.attach(ours.encoder)
    ours.run(inputs[0])
    timers.seconds = dict.fromkeys(PARTS, 0.0)
    timers.detach()
    for call in range(calls):
        taken = inputs[call % len(inputs)]
        started = time.perf_counter()
        ours.run(taken)
        plain += time.perf_counter() - started
        timers.attach(ours.encoder)
        timers.start()
        ours.run(inputs[(call + 1) % len(inputs)])
        timers.stop()
        timers.detach()
    names = dict(zip(PARTS, PARTS, strict=True))
    if not any(isinstance(module, TREES) for module in ours.encoder.modules()):
        names[FEEDFORWARD] = DENSE
    parts = {names[part]: seconds / calls for part, seconds in timers.seconds.items()}
    return {"parts": parts, "whole": sum(parts.values()), "plain": plain / calls, "calls": calls}
