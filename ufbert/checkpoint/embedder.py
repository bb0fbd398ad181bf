"""What a folder says of embeddings: which text goes in, how its token vectors become one, what that passes through.

The terms are those of sentence-transformers, whose files `sentence_transformers` reads and `embedder_files` writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

__all__ = ["FACTS", "Dense", "Embedder", "EmbeddingLayer", "LayerNorm", "Normalize"]

FACTS = ("pooling", "normalize", "embedding_layers", "max_seq_length")
"""The keys of what a config's provenance says of it."""


@dataclass(frozen=True, eq=False)
class Dense:
    """activation(weight @ x + bias), plus x itself or `shortcut` @ x where it has a residual connection."""

    weight: torch.Tensor
    """(out, in), float32, as all of these tensors."""
    bias: torch.Tensor | None
    """(out,)"""
    activation: str = "Tanh"
    """The name of a class of `torch.nn`."""
    residual: bool = False
    shortcut: torch.Tensor | None = None
    """(out, in), where a residual connection changes the size."""

    def __str__(self) -> str:
        return f"Dense {self.weight.shape[1]} to {self.weight.shape[0]}"


@dataclass(frozen=True)
class Normalize:
    """To length 1."""

    def __str__(self) -> str:
        return "Normalize"


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """To mean 0 and variance 1, then scaled and shifted."""

    weight: torch.Tensor
    """(n,)"""
    bias: torch.Tensor
    """(n,)"""

    def __str__(self) -> str:
        return "LayerNorm"


EmbeddingLayer: TypeAlias = Dense | Normalize | LayerNorm


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedder:
    """How texts become embeddings. Without anything said, as by default: the mean over the tokens."""

    declared: bool = False
    """Whether the folder says how to pool; else what follows, up to `similarity`, is the default."""
    pooling: str = "mean"
    """One of `poolings.POOLINGS`, or several joined by `+`, whose vectors stand one behind the other."""
    include_prompt: bool = True
    """Whether the prompt's tokens are pooled, too."""
    layers: tuple[EmbeddingLayer, ...] = ()
    """What the pooled vector passes through, in this order."""
    do_lower_case: bool = False
    """Whether texts are lowercased before they reach the tokenizer."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    """Texts to put before a text, by name."""
    default_prompt: str | None = None
    """The name of the one that is put there unless another is asked for."""
    truncate_dim: int | None = None
    """Only so many numbers at the front of an embedding are kept."""
    similarity: str | None = None
    """The name of the function that compares embeddings."""
    lengths_by_task: Mapping[str, Any] = field(default_factory=dict)
    """Lengths that only sentence-transformers' own calls for queries and documents use, carried along."""
    max_seq_length: int | None = None
    """Tokens at which a text is cut, special ones included; None for no more than the model's positions."""
    tokenizer_length: int | None = None
    """The same as far as the tokenizer says it, which holds for every use of the tokenizer."""
    missing: tuple[str, ...] = ()
    """Layers that the folder's files should hold and do not."""
    notes: tuple[str, ...] = ()
    """What a conversion should tell its user."""

    @property
    def normalize(self) -> bool:
        """Whether embeddings have length 1."""
        return bool(self.layers) and isinstance(self.layers[-1], Normalize)

    def facts(self) -> dict[str, Any]:
        """What a config's provenance says of it."""
        facts: dict[str, Any] = {}
        if self.declared:
            facts |= {"pooling": self.pooling, "normalize": self.normalize}
            layers = list(self.missing) or [type(layer).__name__ for layer in self.layers]
            if layers not in ([], ["Normalize"]):
                facts["embedding_layers"] = layers
        if self.max_seq_length is not None:
            facts["max_seq_length"] = self.max_seq_length
        return facts

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Embedder:
        """What `facts` said, as far as they can: the tensors of layers stand in files alone."""
        length = facts.get("max_seq_length")
        length = length if isinstance(length, int) else None
        if "pooling" not in facts:
            return cls(max_seq_length=length)
        names = facts.get("embedding_layers")
        return cls(
            declared=True,
            pooling=str(facts["pooling"]),
            layers=(Normalize(),) if facts.get("normalize") else (),
            max_seq_length=length,
            missing=tuple(str(name) for name in names) if isinstance(names, list) else (),
        )
