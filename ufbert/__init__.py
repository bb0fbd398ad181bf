"""UltraFastBERT made real: BERT whose feedforward layers are trees of neurons, fast end to end.

The names below are imported on first use, so that `ufbert --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ufbert.inference.pipeline import Pipeline
    from ufbert.model.config import UltraFastBertConfig
    from ufbert.model.encoder import UltraFastBertModel
    from ufbert.model.fff import FFF
    from ufbert.model.heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
    from ufbert.model.token_head import UltraFastBertForTokenClassification

__all__ = [
    "FFF",
    "Pipeline",
    "UltraFastBertConfig",
    "UltraFastBertForMaskedLM",
    "UltraFastBertForSequenceClassification",
    "UltraFastBertForTokenClassification",
    "UltraFastBertModel",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {
    "FFF": "model.fff",
    "UltraFastBertConfig": "model.config",
    "UltraFastBertModel": "model.encoder",
    "UltraFastBertForMaskedLM": "model.heads",
    "UltraFastBertForSequenceClassification": "model.heads",
    "UltraFastBertForTokenClassification": "model.token_head",
    "Pipeline": "inference.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'ufbert' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
