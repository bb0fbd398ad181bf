"""What `ufbert infer` is told of any input: the section `[inference]`. Imports nothing heavy: `--help` shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ufbert.checkpoint.poolings import POOLINGS
from ufbert.errors import ConfigError

from .checks import at_least, one_of

__all__ = ["AGGREGATIONS", "AUTO", "LONG_TEXTS", "PRECISIONS", "TASKS", "InferenceSettings"]

AUTO = "auto"
TASKS = ("fill-mask", "classify", "tag", "embed")
PRECISIONS = ("float32", "bfloat16", "int8")
LONG_TEXTS = ("truncate", "window")
AGGREGATIONS = ("none", "simple", "first", "average", "max")


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """How texts are read and predicted. What belongs to one task only is passed over by the others."""

    task: str = AUTO
    """`fill-mask`, `classify`, `tag` or `embed`; `auto` is what the checkpoint was made for."""
    text_column: str = "text"
    """Column or key of the text in jsonl, csv, tsv and parquet."""
    pair_column: str = ""
    """Column of a second text, encoded together with the first; empty for none."""
    keep_text: bool = True
    """Whether the output repeats the text."""
    top_k: int = 5
    """`fill-mask`: candidates for each mask."""
    targets: Sequence[str] = ()
    """`fill-mask`: the words to give the probabilities of, a token each; none takes the `top_k` best of all tokens."""
    aggregation: str = "simple"
    """`tag`: how tokens become entities, as in transformers: `simple`, by words with the tag of the `first` token, of
    the `average` or of the `max`; or `none`, each token by itself."""
    pooling: str = AUTO
    """`embed`: `mean`, `cls`, `max`, `mean_sqrt_len_tokens`, `weightedmean` or `lasttoken` of the tokens' states, or
    several joined by `+`; `auto` is the checkpoint's own, or `mean`."""
    normalize: bool | str = AUTO
    """`embed`: whether vectors have length 1; `auto` is what the checkpoint's own have, or no."""
    prompt: str = AUTO
    """`embed`: stands before each text; the name of one of the checkpoint's prompts, or a text; empty for none;
    `auto` is the checkpoint's default prompt."""
    truncate_dim: int | str = AUTO
    """`embed`: numbers that are kept, from the front; `auto` is the checkpoint's own, or all."""
    max_length: int | str = AUTO
    """Tokens of a text, special ones included; `auto` is the model's maximum, or of its embeddings."""
    long_text: str = AUTO
    """`truncate` longer texts, or `window`: read them whole in windows and join the results; `auto` is `window` for
    `tag` and `truncate` for the other tasks."""
    stride: int | str = AUTO
    """`window`: tokens that neighbouring windows share; `auto` is a quarter of a window."""
    batch_size: int | str = AUTO
    """Texts of a batch; `auto` is as many as have about 4,096 tokens on a CPU, 65,536 on a GPU."""
    precision: str = AUTO
    """`float32`, `bfloat16`, `int8` on a CPU, or `auto`, which takes bfloat16 where the hardware multiplies it."""
    threads: int | str = AUTO
    """CPU threads; `auto` is one for each core."""
    device: str = AUTO
    """`auto`, `cpu` or `cuda`."""
    backend: str = AUTO
    """Of the fast feedforward layers: `auto`, `reference`, `numba` or `cuda`."""

    def __post_init__(self) -> None:
        one_of("inference.task", self.task, (AUTO, *TASKS))
        if not self.text_column:
            raise ConfigError("inference.text_column is empty; name the column of the text")
        at_least("inference.top_k", self.top_k, 1)
        if isinstance(self.targets, str):
            object.__setattr__(self, "targets", (self.targets,) if self.targets else ())
        if any(not target for target in self.targets):
            raise ConfigError("inference.targets has an empty word; give words, such as --targets cat,dog")
        if self.pooling != AUTO:
            for name in self.pooling.split("+"):
                one_of("inference.pooling", name, (AUTO, *POOLINGS) if name == self.pooling else POOLINGS)
        if isinstance(self.normalize, str) and self.normalize != AUTO:
            raise ConfigError(f"inference.normalize must be true, false or auto, not {self.normalize!r}")
        for name, least in (("truncate_dim", 1), ("max_length", 1), ("stride", 0), ("batch_size", 1), ("threads", 1)):
            value = getattr(self, name)
            if not isinstance(value, str):
                at_least(f"inference.{name}", value, least)
            elif value != AUTO:
                raise ConfigError(f"inference.{name} must be a whole number or auto, not {value!r}")
        one_of("inference.aggregation", self.aggregation, AGGREGATIONS)
        one_of("inference.long_text", self.long_text, (AUTO, *LONG_TEXTS))
        one_of("inference.precision", self.precision, (AUTO, *PRECISIONS))
        one_of("inference.device", self.device, (AUTO, "cpu", "cuda"))
