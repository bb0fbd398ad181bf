"""What sentence-transformers stores beside a model: how its token vectors become one embedding of a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ufbert.checkpoint import read_json
from ufbert.errors import CheckpointError

__all__ = ["read_embedding_facts", "transformer_folder"]


def read_embedding_facts(folder: Path) -> dict[str, Any]:
    """`pooling` (mean or cls), `normalize` and `max_seq_length`, as far as the folder says so.

    An unknown pooling is named as it is, so that whoever embeds texts can refuse it.
    """
    facts: dict[str, Any] = {}
    for module in _modules(folder):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        path = folder / str(module.get("path", ""))
        if kind == "Pooling" and (path / "config.json").is_file():
            facts["pooling"] = _pooling(read_json(path / "config.json"))
        elif kind == "Normalize":
            facts["normalize"] = True
    if "pooling" in facts:
        facts.setdefault("normalize", False)
    settings = (transformer_folder(folder) or folder) / "sentence_bert_config.json"
    if settings.is_file():
        length = read_json(settings).get("max_seq_length")
        if isinstance(length, int):
            facts["max_seq_length"] = length
    return facts


def transformer_folder(folder: Path) -> Path | None:
    """The subfolder of the transformer itself in the older layout (`0_Transformer`)."""
    for module in _modules(folder):
        if str(module.get("type", "")).endswith(".Transformer") and module.get("path"):
            return folder / str(module["path"])
    return None


def _modules(folder: Path) -> list[dict[str, Any]]:
    file = folder / "modules.json"
    if not file.is_file():
        return []
    try:
        modules = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    return [m for m in modules if isinstance(m, dict)] if isinstance(modules, list) else []


def _pooling(values: dict[str, Any]) -> str:
    modes = [k.removeprefix("pooling_mode_") for k, v in values.items() if k.startswith("pooling_mode_") and v is True]
    if isinstance(values.get("pooling_mode"), str):  # newer releases name the mode
        modes = [values["pooling_mode"]]
    short = {"cls_token": "cls", "mean_tokens": "mean"}
    return "+".join(short.get(mode, mode) for mode in modes) or "mean"
