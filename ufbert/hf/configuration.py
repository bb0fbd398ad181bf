"""Our config as transformers wants it: the same fields, the same `config.json`."""

from __future__ import annotations

import dataclasses
from typing import Any

from transformers import PretrainedConfig

from ufbert.model.config import MODEL_TYPE
from ufbert.model.config import UltraFastBertConfig as CoreConfig

__all__ = ["UltraFastBertConfig"]

# What transformers keeps itself; it derives num_labels from id2label.
KEPT_BY_TRANSFORMERS = frozenset({"architectures", "id2label", "num_labels", "problem_type"})


class UltraFastBertConfig(PretrainedConfig):
    """The fields and defaults of `ufbert.UltraFastBertConfig`, checked when a model is made of it."""

    model_type = MODEL_TYPE

    def __init__(self, **values: Any) -> None:
        defaults = {k: v for k, v in dataclasses.asdict(CoreConfig()).items() if k not in KEPT_BY_TRANSFORMERS}
        super().__init__(**{**defaults, **values})

    def to_core(self) -> CoreConfig:
        """The config of the core's modules. Raises `ConfigError` for a value that cannot be."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(CoreConfig)}
        return CoreConfig(**{**values, "architectures": tuple(self.architectures or ())})

    def to_dict(self) -> dict[str, Any]:
        """The content of `config.json`, with `num_labels`, which the core reads and transformers leaves out.

        As in the core's file, `feedforward_layers` is there only where layers differ.
        """
        values = {**super().to_dict(), "num_labels": self.num_labels}
        if not self.feedforward_layers:
            values.pop("feedforward_layers", None)
        return values
