"""UltraFastBERT made real: BERT whose feedforward layers are trees of neurons, fast end to end.

The names below are imported on first use, so that `ufbert --help` does not wait for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import UltraFastBertConfig
    from .encoder import UltraFastBertModel
    from .fff import FFF
    from .heads import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
    from .inference.pipeline import Pipeline

__all__ = [
    "FFF",
    "Pipeline",
    "UltraFastBertConfig",
    "UltraFastBertForMaskedLM",
    "UltraFastBertForSequenceClassification",
    "UltraFastBertModel",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {
    "FFF": "fff",
    "UltraFastBertConfig": "config",
    "UltraFastBertModel": "encoder",
    "UltraFastBertForMaskedLM": "heads",
    "UltraFastBertForSequenceClassification": "heads",
    "Pipeline": "inference.pipeline",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(f"module 'ufbert' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
