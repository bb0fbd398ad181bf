"""What sentence-transformers stores of a cross-encoder: the activation that `CrossEncoder.predict` puts on its scores.

A class of torch by its dotted path, in `config_sentence_transformers.json` (newest releases), in `config.json` under
`sentence_transformers.activation_fn`, or there as `sbert_ce_default_activation_function` (before release 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ufbert.errors import CheckpointError

__all__ = ["read_score_activation", "score_activation_keys"]

SETTINGS_FILE = "config_sentence_transformers.json"
OLD_KEY = "sbert_ce_default_activation_function"
PATHS = {
    "identity": "torch.nn.modules.linear.Identity",
    "sigmoid": "torch.nn.modules.activation.Sigmoid",
    "tanh": "torch.nn.modules.activation.Tanh",
    "relu": "torch.nn.modules.activation.ReLU",
    "softmax": "torch.nn.modules.activation.Softmax",
}
"""Our name -> the path under which sentence-transformers saves it."""


def read_score_activation(folder: Path, config: Mapping[str, Any], labels: int) -> str | None:
    """Our name of the activation, the library's default where a cross-encoder names none, None if it is none.

    `config` is the content of the model's `config.json`, `folder` that of the whole model, `labels` its scores.
    Raises `CheckpointError` for one that we do not have. A class outside torch counts as none named, as it does there
    unless the user trusts remote code.
    """
    from .folder import read_json  # late: it needs torch, and the config, which --help shows, needs this module

    file = folder / SETTINGS_FILE
    settings = read_json(file) if file.is_file() else {}
    section = config.get("sentence_transformers")
    section = section if isinstance(section, Mapping) else None
    named, where = settings.get("activation_fn"), str(file)
    if not _trusted(named):
        where = str(folder / "config.json")
        if section is not None and "activation_fn" in section:
            named, where = section["activation_fn"], f"{where}: sentence_transformers"
        else:
            named = config.get(OLD_KEY)
    if _trusted(named):
        name = str(named).rsplit(".", 1)[-1].lower()
        if name not in PATHS:
            known = ", ".join(path.rsplit(".", 1)[-1] for path in PATHS.values())
            raise CheckpointError(
                f"{where}: the scores' activation is {named!r}, which is not supported; known: {known}"
            )
        return name
    if section is None and OLD_KEY not in config and settings.get("model_type") != "CrossEncoder":
        return None
    return "sigmoid" if labels == 1 else "identity"


def _trusted(path: object) -> bool:
    return isinstance(path, str) and path.startswith("torch.")


def score_activation_keys(name: str | None) -> dict[str, Any]:
    """What `config.json` holds for every release of sentence-transformers to read the activation."""
    if name is None:
        return {}
    return {"sentence_transformers": {"activation_fn": PATHS[name]}, OLD_KEY: PATHS[name]}
