"""A loaded model made ready for inference, in one place for the pipeline and the benchmark."""

from __future__ import annotations

import torch
from torch import nn

from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.fff import FFF
from ufbert.model.pretrained import PretrainedModel

from .encoder import PackedEncoder
from .feedforward import MakeLinear
from .linear import Int8Linear, PackedLinear

__all__ = ["pack_encoder", "prepare"]


def prepare(
    model: PretrainedModel, precision: str, device: torch.device, backend: str
) -> PretrainedModel | PackedEncoder:
    """The model on its device in `precision` (float32, bfloat16 or int8), its trees on `backend`.

    On a CPU its encoder becomes a `PackedEncoder`: in `model.encoder`, or returned for a model that is one. On a
    GPU its matrices are converted, and it is to be called under autocast.
    """
    for module in model.modules():
        if isinstance(module, FFF):
            module.backend = backend
    model.requires_grad_(False)
    if device.type != "cpu":
        _convert(model, precision)
        return model.to(device)
    dtype = torch.float32 if precision == "float32" else torch.bfloat16

    def pack(weight: torch.Tensor, bias: torch.Tensor | None) -> PackedLinear:
        return PackedLinear(weight, bias, dtype)

    make: MakeLinear = Int8Linear if precision == "int8" else pack
    with torch.inference_mode(False), torch.no_grad():
        if isinstance(model, UltraFastBertModel):
            return PackedEncoder(model, dtype, make).eval()
        for name, child in list(model.named_children()):
            if isinstance(child, UltraFastBertModel):
                setattr(model, name, PackedEncoder(child, dtype, make).eval())
            elif isinstance(child, nn.Linear):
                # The decoder, with its rows over the vocabulary.
                setattr(model, name, pack(child.weight, child.bias))
            else:
                _pack_small(child)
    return model


def pack_encoder(encoder: UltraFastBertModel, dtype: torch.dtype) -> PackedEncoder:
    """`prepare` an encoder on the CPU, in float32 or bfloat16."""
    packed = prepare(encoder, str(dtype).removeprefix("torch."), torch.device("cpu"), "auto")
    assert isinstance(packed, PackedEncoder)
    return packed


def _convert(model: PretrainedModel, precision: str) -> None:
    """Autocast would convert the float32 matrices and trees anew for every batch."""
    if precision == "float32":
        return
    for module in model.modules():
        if isinstance(module, nn.Linear):
            # A tied decoder gets its own copy, because the embedding stays as it is.
            module.weight = nn.Parameter(module.weight.detach().to(torch.bfloat16), requires_grad=False)
        elif isinstance(module, FFF):
            for name in ("w_in", "b_in", "w_out"):
                tree = getattr(module, name).detach().to(torch.bfloat16)
                setattr(module, name, nn.Parameter(tree, requires_grad=False))


def _pack_small(head: nn.Module) -> None:
    """Small layers stay in float32."""
    for name, child in list(head.named_children()):
        if isinstance(child, nn.Linear):
            setattr(head, name, PackedLinear(child.weight, child.bias, torch.float32))
