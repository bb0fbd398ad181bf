"""Our models for transformers: `import ufbert.hf`, then its Auto classes and pipelines read our folders.

    import ufbert.hf
    from transformers import AutoModelForMaskedLM
    model = AutoModelForMaskedLM.from_pretrained("runs/pretrain")

The import registers the classes below under the model type of our `config.json`; without transformers it
raises `MissingExtraError`. `save_pretrained` of these classes writes folders that `ufbert` itself reads.
"""

from __future__ import annotations

from importlib.util import find_spec

from ufbert.errors import MissingExtraError

if find_spec("transformers") is None:
    raise MissingExtraError("transformers", "hf", "ufbert.hf")

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration import UltraFastBertConfig
from .models import UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification, UltraFastBertModel
from .token_classification import UltraFastBertForTokenClassification

__all__ = [
    "UltraFastBertConfig",
    "UltraFastBertForMaskedLM",
    "UltraFastBertForSequenceClassification",
    "UltraFastBertForTokenClassification",
    "UltraFastBertModel",
]

AutoConfig.register(UltraFastBertConfig.model_type, UltraFastBertConfig, exist_ok=True)
AutoModel.register(UltraFastBertConfig, UltraFastBertModel, exist_ok=True)
AutoModelForMaskedLM.register(UltraFastBertConfig, UltraFastBertForMaskedLM, exist_ok=True)
AutoModelForSequenceClassification.register(UltraFastBertConfig, UltraFastBertForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(UltraFastBertConfig, UltraFastBertForTokenClassification, exist_ok=True)
