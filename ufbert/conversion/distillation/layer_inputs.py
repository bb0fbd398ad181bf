"""What every dense feedforward layer of the teacher sees and says on the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ufbert.model.encoder import UltraFastBertModel

from .batch import Batch

__all__ = ["LayerSample", "collect_layer_samples", "record_hidden_states"]


@dataclass(frozen=True)
class LayerSample:
    """Inputs x and outputs y of one feedforward layer, (tokens, H), bfloat16 to fit many of them."""

    x: torch.Tensor
    y: torch.Tensor
    token_ids: torch.Tensor | None = None
    """(tokens,), one tensor for all layers; None where nobody asks which tokens they are."""


@torch.no_grad()
def collect_layer_samples(
    teacher: UltraFastBertModel, batches: Iterable[Batch], tokens: int, layers: Sequence[int] | None = None
) -> list[LayerSample]:
    """Run the teacher until about `tokens` tokens have been seen; padding is left out.

    A sample for each of `layers`, by default of all; for none, the teacher does not run.
    """
    chosen = [teacher.layers[layer] for layer in (range(len(teacher.layers)) if layers is None else layers)]
    if not chosen:
        return []
    inputs: list[list[torch.Tensor]] = [[] for _ in chosen]
    outputs: list[list[torch.Tensor]] = [[] for _ in chosen]
    token_ids: list[torch.Tensor] = []
    present = torch.zeros(0)

    def record(index: int) -> Any:
        def hook(_: Any, arguments: tuple[torch.Tensor], output: torch.Tensor) -> None:
            inputs[index].append(arguments[0][present].bfloat16())
            outputs[index].append(output[present].bfloat16())

        return hook

    handles = [layer.get_submodule("feedforward").register_forward_hook(record(i)) for i, layer in enumerate(chosen)]
    seen = 0
    try:
        for batch in batches:
            present = batch.attention_mask.bool()
            token_ids.append(batch.input_ids[present])
            teacher.encode(batch.input_ids, batch.attention_mask, batch.token_type_ids)
            seen += int(present.sum())
            if seen >= tokens:
                break
    finally:
        for handle in handles:
            handle.remove()
    ids = torch.cat(token_ids)
    return [LayerSample(torch.cat(x), torch.cat(y), ids) for x, y in zip(inputs, outputs, strict=True)]


@contextmanager
def record_hidden_states(encoder: UltraFastBertModel) -> Iterator[list[torch.Tensor]]:
    """A list that holds, after a forward pass, every layer's output (B, T, H), the final norm's included."""
    states: list[torch.Tensor] = []

    def begin(*_: Any) -> None:
        states.clear()

    def hook(_: Any, __: Any, output: torch.Tensor) -> None:
        states.append(output)

    modules = [*encoder.layers, *([encoder.final_norm] if encoder.final_norm is not None else [])]
    handles = [module.register_forward_hook(hook) for module in modules]
    handles.append(encoder.embeddings.register_forward_pre_hook(begin))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()
