"""What sentence-transformers stores beside a model: how its token vectors become one embedding of a text.

`modules.json`, `1_Pooling/config.json` and `sentence_bert_config.json`. Without them it takes the mean, as we
do, so our checkpoints hold them where their provenance says more than that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ufbert.errors import CheckpointError

from .folder import read_json

__all__ = ["read_embedding_facts", "transformer_folder", "unread_modules", "write_embedding_facts"]

POOLING_FOLDER = "1_Pooling"
# Our name -> that of `pooling_mode_...` in the files that every release reads.
POOLING_MODES = {
    "cls": "cls_token",
    "max": "max_tokens",
    "mean": "mean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "weightedmean": "weightedmean_tokens",
    "lasttoken": "lasttoken",
}


def read_embedding_facts(folder: Path) -> dict[str, Any]:
    """`pooling` (mean or cls), `normalize` and `max_seq_length`, as far as the folder says so.

    An unknown pooling is named as it is, so that whoever embeds texts can refuse it.
    """
    facts: dict[str, Any] = {}
    for module in _modules(folder):
        kind = _kind(module)
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


def unread_modules(folder: Path) -> list[str]:
    """Modules beyond what `read_embedding_facts` can say, `Dense` for instance."""
    return [kind for m in _modules(folder) if (kind := _kind(m)) not in ("Transformer", "Pooling", "Normalize")]


def write_embedding_facts(facts: dict[str, Any], hidden_size: int, folder: Path) -> None:
    """Write what `read_embedding_facts` reads, if `facts` name a pooling, so that both libraries embed alike."""
    if "pooling" not in facts:
        return
    kinds = {"": "Transformer", POOLING_FOLDER: "Pooling"}
    if facts.get("normalize"):
        kinds["2_Normalize"] = "Normalize"
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    wanted = {POOLING_MODES.get(mode, mode) for mode in str(facts["pooling"]).split("+")}
    modes = {f"pooling_mode_{mode}": mode in wanted for mode in sorted({*POOLING_MODES.values(), *wanted})}
    (folder / POOLING_FOLDER).mkdir(exist_ok=True)
    _write_json({"word_embedding_dimension": hidden_size, **modes}, folder / POOLING_FOLDER / "config.json")
    if "max_seq_length" in facts:
        settings = {"max_seq_length": facts["max_seq_length"], "do_lower_case": False}
        _write_json(settings, folder / "sentence_bert_config.json")
    _write_json(modules, folder / "modules.json")


def _write_json(values: Any, file: Path) -> None:
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def transformer_folder(folder: Path) -> Path | None:
    """The subfolder of the transformer itself in the older layout (`0_Transformer`)."""
    for module in _modules(folder):
        if _kind(module) == "Transformer" and module.get("path"):
            return folder / str(module["path"])
    return None


def _kind(module: dict[str, Any]) -> str:
    return str(module.get("type", "")).rsplit(".", 1)[-1]


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
    short = {theirs: ours for ours, theirs in POOLING_MODES.items()}
    return "+".join(short.get(mode, mode) for mode in modes) or "mean"
