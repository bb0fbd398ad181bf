"""The files of sentence-transformers for an `Embedder`, in the form that most of its releases read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from .embedder import Dense, Embedder, EmbeddingLayer, LayerNorm
from .folder import write_tensors
from .poolings import FLAGS
from .sentence_transformers import CONFIG, MODULES, SETTINGS

__all__ = ["write_embedder"]


def write_embedder(embedder: Embedder, hidden_size: int, positions: int, folder: Path) -> None:
    """Write what `read_embedder` reads, if `embedder` was declared, so that both libraries embed alike.

    `positions` are the tokens that the model can read. Raises `OSError` as it comes.
    """
    if not embedder.declared or embedder.missing:
        return
    paths = {"": "Transformer", "1_Pooling": "Pooling"}
    _write_json(_pooling(embedder, hidden_size), folder / "1_Pooling" / "config.json")
    for number, layer in enumerate(embedder.layers, 2):
        kind = type(layer).__name__
        paths[f"{number}_{kind}"] = kind
        _write_layer(layer, folder / f"{number}_{kind}")
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(paths.items())
    ]
    settings: dict[str, Any] = {"do_lower_case": embedder.do_lower_case, **embedder.lengths_by_task}
    if embedder.max_seq_length is not None:
        settings = {"max_seq_length": min(embedder.max_seq_length, positions), **settings}
    _write_json(settings, folder / SETTINGS[0])
    _write_json(modules, folder / MODULES)
    values: dict[str, Any] = {
        "prompts": dict(embedder.prompts),
        "default_prompt_name": embedder.default_prompt,
        "similarity_fn_name": embedder.similarity,
    }
    if embedder.truncate_dim is not None:
        values["truncate_dim"] = embedder.truncate_dim
    if any(values.values()):
        _write_json(values, folder / CONFIG)


def _pooling(embedder: Embedder, hidden_size: int) -> dict[str, Any]:
    values: dict[str, Any] = {"word_embedding_dimension": hidden_size}
    modes = embedder.pooling.split("+")
    flags = {flag: mode in modes for flag, mode in FLAGS.items()}
    if modes == [mode for flag, mode in FLAGS.items() if flags[flag]]:
        values |= flags
    else:  # flags have an order of their own, and no mode twice; releases that know them alone will refuse this
        values["pooling_mode"] = modes
    # Releases before 2.4 do not know the key.
    return values if embedder.include_prompt else {**values, "include_prompt": False}


def _write_layer(layer: EmbeddingLayer, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    tensors: dict[str, torch.Tensor | None] = {}
    if isinstance(layer, Dense):
        tensors = {"linear.weight": layer.weight, "linear.bias": layer.bias, "residual.weight": layer.shortcut}
        outputs, inputs = layer.weight.shape
        # The class's module is where the oldest releases look for it.
        module = "linear" if layer.activation == "Identity" else "activation"
        values = {
            "in_features": inputs,
            "out_features": outputs,
            "bias": layer.bias is not None,
            "activation_function": f"torch.nn.modules.{module}.{layer.activation}",
        }
        _write_json(values | ({"use_residual": True} if layer.residual else {}), folder / "config.json")
    elif isinstance(layer, LayerNorm):
        tensors = {"norm.weight": layer.weight, "norm.bias": layer.bias}
        _write_json({"dimension": len(layer.weight)}, folder / "config.json")
    if tensors:
        kept = {name: t.detach().cpu().contiguous() for name, t in tensors.items() if t is not None}
        write_tensors(kept, folder / "model.safetensors")


def _write_json(values: Any, file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
