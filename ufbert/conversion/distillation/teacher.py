"""What the teacher makes of each batch of the end-to-end training: its hidden states."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import nn

from ufbert.model.encoder import UltraFastBertModel
from ufbert.system.devices import autocast

from .batch import Batch

__all__ = ["EncoderPacker", "Teacher", "TeacherStates", "of_tokens"]

EncoderPacker: TypeAlias = Callable[[UltraFastBertModel, torch.dtype], nn.Module]
"""(encoder on the CPU, which is used up; float32 or bfloat16) -> one with `encode`, and with `layers` and `final_norm`
that work on the tokens of all texts laid end to end, with rows behind them that are no tokens."""


class TeacherStates(NamedTuple):
    """Of a batch, without gradients."""

    tokens: list[torch.Tensor]
    """What each layer puts out, the final norm included, (tokens, H) as `of_tokens` gives it."""
    last: torch.Tensor
    """The last of them as (B, T, H) in float32."""


def of_tokens(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """states (B, T, H) -> (tokens, H) in float32 where the mask (B, T) is 1."""
    return (states.flatten(0, 1) if mask.all() else states[mask.bool()]).float()


class Teacher:
    """An encoder that stays as it is. With `pack`, a copy for inference runs in its place, on a CPU.

    That one has its weights in the precision it multiplies in, and takes no time for padding.
    """

    def __init__(self, encoder: UltraFastBertModel, precision: torch.dtype, pack: EncoderPacker | None) -> None:
        self.precision, self.device = precision, encoder.device
        self.packed = pack is not None and self.device.type == "cpu"
        self.encoder: Any = pack(copy.deepcopy(encoder), precision) if pack and self.packed else encoder

    @torch.no_grad()
    def states(self, batch: Batch) -> TeacherStates:
        """Run it on a batch, whose mask's ones stand at the front."""
        mask, recorded = batch.attention_mask, []
        total = int(mask.sum())

        def record(_: Any, __: Any, output: torch.Tensor) -> None:
            # The next layer of a packed encoder may write over what it is given.
            recorded.append(output[:total].float().clone() if self.packed else of_tokens(output, mask))

        norm = self.encoder.final_norm
        handles = [m.register_forward_hook(record) for m in (*self.encoder.layers, *([] if norm is None else [norm]))]
        try:
            with autocast(self.device, torch.float32 if self.packed else self.precision):
                last = self.encoder.encode(batch.input_ids, mask, batch.token_type_ids)
        finally:
            for handle in handles:
                handle.remove()
        return TeacherStates(recorded, last.float())
