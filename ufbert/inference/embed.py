"""The task `embed`: what a text is embedded with, and how hidden states become its vector."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer, normalizers

from ufbert.checkpoint.embedder import Embedder, Normalize
from ufbert.checkpoint.poolings import POOLINGS
from ufbert.checkpoint.sentence_transformers import PROMPT_NAMES
from ufbert.checkpoint.tokenizer import special_token_ids
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.embedding_layers import apply_layers, embedding_size
from ufbert.model.encoder import UltraFastBertModel
from ufbert.model.pooling import pool_by_length
from ufbert.text.batching import Example
from ufbert.text.long_texts import TextPart
from ufbert.text.tokenization import encode_batch

from .predictions import Prediction, Task, finite, weighted_mean

__all__ = ["Embed", "Embedding", "choose_embedding", "count_prompt_tokens", "lowercase_first"]

WORD = re.compile(r"[\w-]+")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedding:
    """What the checkpoint says of embeddings, with what was asked for in its place."""

    embedder: Embedder
    prompt: str = ""
    """Stands before every text, the first one of a pair."""
    size: int = 0
    """The numbers of a vector."""
    renormalize: bool = False
    """Whether vectors are brought to length 1 behind everything else."""
    prompt_tokens: int = 0
    """Tokens at the front that are read, but not pooled."""

    @property
    def normalized(self) -> bool:
        """Whether vectors have length 1."""
        return self.renormalize or (self.embedder.normalize and self.embedder.truncate_dim is None)

    def __str__(self) -> str:
        parts = [f"{self.embedder.pooling} pooling", *map(str, self._inner_layers())]
        if self.embedder.truncate_dim is not None:
            parts.append(f"cut to {self.size} numbers")
        parts.append("of length 1" if self.normalized else "not normalised")
        return ", ".join([*parts, f"prompt {self.prompt!r}"] if self.prompt else parts)

    def _inner_layers(self) -> Sequence[object]:
        layers = self.embedder.layers
        return layers[:-1] if self.embedder.normalize else layers


def choose_embedding(
    embedder: Embedder,
    hidden_size: int,
    *,
    pooling: str | None,
    normalize: bool | None,
    prompt: str | None,
    truncate_dim: int | None,
    where: str,
) -> Embedding:
    """The embedder's own choices, but what is not None as asked for.

    `normalize` True acts behind the truncation, as in sentence-transformers; False leaves out the embedder's last
    Normalize. `prompt` is the name of one of the embedder's prompts, or a text. Raises `ConfigError` for what
    cannot be, `CheckpointError` where `where`, the folder, lacks layers or they do not fit together.
    """
    if embedder.missing:
        raise CheckpointError(
            f"{where}: lacks the files of {', '.join(embedder.missing)}, which its embeddings pass through; copy "
            "modules.json and the folders that it names out of the checkpoint it was made from"
        )
    if pooling is not None:
        if unknown := [name for name in pooling.split("+") if name not in POOLINGS]:
            raise ConfigError(f"unknown pooling {unknown[0]!r}; known: {', '.join(POOLINGS)}, or several joined by +")
        embedder = dataclasses.replace(embedder, pooling=pooling)
    if normalize is False and embedder.normalize:
        embedder = dataclasses.replace(embedder, layers=embedder.layers[:-1])
    try:
        size = embedding_size(embedder, hidden_size)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    if truncate_dim is not None and not 1 <= truncate_dim <= size:
        raise ConfigError(f"truncate_dim must lie between 1 and the {size} numbers of an embedding, not {truncate_dim}")
    kept = min(size, truncate_dim or embedder.truncate_dim or size)
    truncated = kept < size
    return Embedding(
        embedder=dataclasses.replace(embedder, truncate_dim=kept if truncated else None),
        prompt=_choose_prompt(embedder, prompt),
        size=kept,
        renormalize=normalize is True and (truncated or not embedder.normalize),
    )


def _choose_prompt(embedder: Embedder, prompt: str | None) -> str:
    """The text of the prompt asked for, or of the default one."""
    known = dict.fromkeys(PROMPT_NAMES, "") | dict(embedder.prompts)
    if prompt is None:
        return known[embedder.default_prompt] if embedder.default_prompt is not None else ""
    if prompt in known:
        return known[prompt]
    if WORD.fullmatch(prompt) and embedder.prompts:
        raise ConfigError(
            f"the checkpoint has no prompt {prompt!r}; it has: {', '.join(embedder.prompts)}; a text to put before "
            f"the texts ends with a space or a colon, such as {prompt + ': '!r}"
        )
    return prompt


def lowercase_first(tokenizer: Tokenizer) -> Tokenizer:
    """A copy that lowercases every text before anything else, unless it has such a step already."""
    own = tokenizer.normalizer
    steps = list(cast(Any, own)) if isinstance(own, normalizers.Sequence) else [] if own is None else [own]
    if any(isinstance(step, normalizers.Lowercase) for step in steps):
        return tokenizer
    copy = Tokenizer.from_str(tokenizer.to_str())
    copy.normalizer = normalizers.Sequence([normalizers.Lowercase(), *steps])
    return copy


def count_prompt_tokens(
    embedding: Embedding, tokenizer: Tokenizer, max_length: int, *, windows: bool = False
) -> Embedding:
    """With the number of tokens that are not pooled: the prompt's and what the tokenizer puts before it.

    Raises `ConfigError` where they leave no token to pool, or where texts are read in windows.
    """
    if embedding.embedder.include_prompt or not embedding.prompt:
        return embedding
    if windows:
        raise ConfigError(
            "the checkpoint leaves its prompt out of the pooling, which long_text 'window' cannot, as only the "
            "first window holds it; truncate, or give an empty prompt"
        )
    ids = encode_batch(tokenizer, [embedding.prompt], max_length=max_length).input_ids[0]
    tokens = len(ids) - int(len(ids) > 0 and int(ids[-1]) in special_token_ids(tokenizer))
    if tokens >= max_length - tokenizer.num_special_tokens_to_add(False):
        raise ConfigError(
            f"the prompt fills the {max_length} tokens that are read, and its own are not pooled; shorten it or "
            "raise max_length"
        )
    return dataclasses.replace(embedding, prompt_tokens=tokens)


class Embed(Task):
    """A float32 vector (n,) of each text, as `Embedding` says."""

    columns = ("embedding",)

    def __init__(self, model: UltraFastBertModel, embedding: Embedding) -> None:
        self.model, self.embedding = model, embedding

    def prepare(self, example: Example) -> Example:
        """With the prompt before the text."""
        if not self.embedding.prompt:
            return example
        return dataclasses.replace(example, text=self.embedding.prompt + example.text)

    def predict(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        examples: list[Example],
    ) -> list[Prediction]:
        """The pooled states; padding is left out and special tokens count, as in sentence-transformers.

        `finish` makes the texts' vectors of them.
        """
        hidden = self.model.encode(input_ids, attention_mask, token_type_ids).float()  # (B, T, H)
        pooling, prompt_tokens = self.embedding.embedder.pooling, self.embedding.prompt_tokens
        return list(finite(pool_by_length(hidden, attention_mask, pooling, prompt_tokens)).numpy())

    def join(
        self,
        example: Example,
        predictions: Sequence[Prediction],
        input_ids: Sequence[npt.NDArray[np.int64]],
        parts: Sequence[TextPart],
    ) -> Prediction:
        """The mean of the rows' vectors, weighted by their tokens."""
        return weighted_mean(np.stack([np.asarray(p) for p in predictions]), input_ids)

    def without_tokens(self, prediction: Prediction) -> Prediction:
        """Zeros behind the pooling, the mean over nothing in sentence-transformers too."""
        return np.zeros_like(np.asarray(prediction))

    def finish(self, predictions: list[Prediction], examples: list[Example]) -> list[Prediction]:
        """What the layers behind the pooling make of them, cut and of length 1 if wanted.

        Each text by itself, so that not the last bit hangs on its neighbours.
        """
        return [self._vector(prediction) for prediction in predictions]

    def _vector(self, prediction: Prediction) -> Prediction:
        embedding = self.embedding
        vector = apply_layers(embedding.embedder.layers, torch.from_numpy(np.asarray(prediction))[None])
        vector = vector[:, : embedding.size]  # (1, n)
        if embedding.renormalize:
            vector = apply_layers((Normalize(),), vector)
        return np.ascontiguousarray(vector[0].numpy())
