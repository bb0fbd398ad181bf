"""ONNX export: dense layers as matrix products, trees as the walk itself, node by node with gathers.

The graph takes `input_ids` and `attention_mask` (and `token_type_ids`, where the model has more than one token
type), of any batch size and length, and gives `last_hidden_state` and, with a head, `logits`: the names by which
optimum's `ORTModel` classes and sentence-transformers' onnx backend call it.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ufbert.conversion.readers.checkpoint import encoder_of
from ufbert.errors import MissingExtraError
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.fff import FFF
from ufbert.model.pretrained import PretrainedModel

__all__ = ["MODEL_FILE", "export_onnx", "require_onnx"]

MODEL_FILE = "model.onnx"
OPSET = 18
LARGEST_FILE = 2**31 - 2**24  # bytes; the format ends at 2 GiB, graph included


def require_onnx() -> None:
    """Raise `MissingExtraError` unless the `onnx` extra is installed."""
    for package in ("onnx", "onnxscript", "onnx_ir"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(package, "onnx", "convert --to onnx")


class WalkedFFF(nn.Module):
    """The function of `FFF` in operations that ONNX has: depth + 1 gathers of one node a token and tree."""

    def __init__(self, layer: FFF) -> None:
        super().__init__()
        hidden = layer.hidden_size
        self.trees, self.depth = layer.trees, layer.depth
        self.register_buffer("w_in", layer.w_in.detach().reshape(-1, hidden))
        self.register_buffer("w_out", layer.w_out.detach().reshape(-1, hidden))
        self.register_buffer("b_in", layer.b_in.detach().reshape(-1))
        self.register_buffer("b_out", None if layer.b_out is None else layer.b_out.detach())
        self.shared = layer.shared
        self.register_buffer("roots", torch.arange(layer.trees) * layer.nodes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (B, T, H) -> (B, T, H)."""
        w_in, w_out, b_in = self.get_buffer("w_in"), self.get_buffer("w_out"), self.get_buffer("b_in")
        roots = self.get_buffer("roots")
        node = torch.zeros_like(x[..., :1], dtype=torch.int64).expand(-1, -1, self.trees)  # (B, T, P)
        y = torch.zeros_like(x)
        for _ in range(self.depth + 1):
            row = node + roots
            logit = (w_in[row] @ x.unsqueeze(-1)).squeeze(-1) + b_in[row]  # (B, T, P)
            y = y + (F.gelu(logit).unsqueeze(-2) @ w_out[row]).squeeze(-2)
            node = 2 * node + 1 + (logit > 0).to(torch.int64)
        if self.shared is not None:
            y = y + self.shared(x)
        return y if self.b_out is None else y + self.get_buffer("b_out")


class _Graph(nn.Module):
    """Positional inputs and outputs, which is what a graph has."""

    def __init__(self, model: PretrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        types = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        output: Any = self.model(input_ids, attention_mask, **types)
        if isinstance(self.model, UltraFastBertModel):
            return (output.last_hidden_state,)
        return output.last_hidden_state, output.logits


def export_onnx(model: PretrainedModel, folder: Path) -> None:
    """Write `model` to model.onnx in `folder`, weights beyond 2 GiB to model.onnx_data beside it.

    Its FFF layers are replaced for it, so use the model for nothing else afterwards.
    Raises `MissingExtraError` without the `onnx` extra.
    """
    require_onnx()
    import onnx

    config = model.config
    for layer in encoder_of(model).layers:
        if isinstance(layer.feedforward, FFF):
            layer.register_module("feedforward", WalkedFFF(layer.feedforward))
    length = min(8, config.max_position_embeddings)
    inputs = {
        "input_ids": torch.randint(config.vocab_size, (2, length)),
        "attention_mask": torch.ones(2, length, dtype=torch.int64),
    }
    if config.type_vocab_size > 1:
        inputs["token_type_ids"] = torch.zeros(2, length, dtype=torch.int64)
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens", max=config.max_position_embeddings)
    outputs = ["last_hidden_state", *([] if isinstance(model, UltraFastBertModel) else ["logits"])]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter warns of its own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Graph(model).eval(),
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_shapes=tuple({0: batch, 1: tokens} for _ in inputs),
        )
    assert program is not None
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    import onnx_ir

    # The name under which optimum fetches such a file from the hub; the exporter would call it model.onnx.data.
    onnx_ir.save(
        program.model, folder / MODEL_FILE, external_data=f"{MODEL_FILE}_data" if size > LARGEST_FILE else None
    )
    onnx.checker.check_model(str(folder / MODEL_FILE))
