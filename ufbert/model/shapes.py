"""What the feedforward layer of one layer is, and how that is written.

none     no feedforward layer
dense:N  a dense layer of N neurons
PxD      P trees of depth D
PxD+S    the same beside S shared neurons, which every token uses
rows:N   no neurons: a row of its own for each of the N most frequent tokens, and one for all others
...+rows:N  any of the above but none, beside such rows
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from ufbert.cmm.tree import check_shape, node_count, visited_count
from ufbert.errors import ConfigError

__all__ = ["SHAPES", "FeedforwardShape", "describe_layers", "parse_shape", "read_layers"]

SHAPES = "none, dense:N, PxD or PxD+S, and +rows:N behind them"


@dataclass(frozen=True)
class FeedforwardShape:
    """One feedforward layer, without the hidden size; `str` writes it as `parse_shape` reads it."""

    kind: str
    """`fff`, `dense` or `none`."""
    trees: int = 0
    depth: int = 0
    shared_neurons: int = 0
    """Dense neurons beside the trees."""
    intermediate_size: int = 0
    """Neurons of a dense layer."""
    token_rows: int = 0
    """Tokens of the vocabulary that have a row of their own in the layer: see `model.token_rows`."""

    @classmethod
    def of_trees(cls, trees: int, depth: int, shared_neurons: int = 0) -> FeedforwardShape:
        """P trees of depth D beside S shared neurons."""
        return cls("fff", trees, depth, shared_neurons)

    @classmethod
    def of_dense(cls, neurons: int) -> FeedforwardShape:
        """A dense layer; of no neurons, none."""
        return cls("dense", intermediate_size=neurons) if neurons else cls("none")

    def __str__(self) -> str:
        parts = []
        if self.kind == "fff":
            parts.append(f"{self.trees}x{self.depth}" + (f"+{self.shared_neurons}" if self.shared_neurons else ""))
        elif self.kind == "dense":
            parts.append(f"dense:{self.intermediate_size}")
        if self.token_rows:
            parts.append(f"rows:{self.token_rows}")
        return "+".join(parts) or "none"

    def with_rows(self, tokens: int) -> FeedforwardShape:
        """The same neurons beside rows for so many tokens."""
        return replace(self, token_rows=tokens)

    @property
    def absent(self) -> bool:
        """Whether there is no such layer at all."""
        return self.kind == "none" and not self.token_rows

    @property
    def neurons_available(self) -> int:
        """All neurons of the layer."""
        in_trees = self.trees * node_count(self.depth) if self.kind == "fff" else 0
        return in_trees + self.shared_neurons + self.intermediate_size

    @property
    def neurons_used(self) -> int:
        """Those that a token uses."""
        visited = self.trees * visited_count(self.depth) if self.kind == "fff" else 0
        return visited + self.shared_neurons + self.intermediate_size

    @property
    def dense_width(self) -> int | None:
        """Neurons, if all tokens use the same ones and nothing else; None for trees that decide, and for no layer."""
        return None if self.kind == "none" or self.depth or self.token_rows else self.neurons_available

    def describe(self) -> str:
        """For people: "12 trees of depth 6 beside 64 shared neurons"."""
        if self.absent:
            return "no feedforward layer"
        parts = []
        if self.kind == "dense":
            parts.append(f"{self.intermediate_size:,} dense neurons")
        elif self.kind == "fff":
            parts.append(f"{self.trees} trees of depth {self.depth}")
        if self.shared_neurons:
            parts.append(f"{self.shared_neurons} shared neurons")
        if self.token_rows:
            parts.append(f"rows of {self.token_rows:,} tokens")
        first, *others = parts
        return f"{first} beside {' and '.join(others)}" if others else first

    def config_fields(self) -> dict[str, Any]:
        """The fields of a config whose layers all are this one; what it says nothing of is left out."""
        fields: dict[str, Any] = {"feedforward": self.kind, "token_rows": self.token_rows}
        if self.kind == "fff":
            fields |= {"trees": self.trees, "depth": self.depth, "shared_neurons": self.shared_neurons}
        elif self.kind == "dense":
            fields["intermediate_size"] = self.intermediate_size
        return fields


def parse_shape(text: Any) -> FeedforwardShape:
    """The shape that `text` writes. Raises `ConfigError` for what is none of the forms, or has nothing in it."""
    written = text.strip() if isinstance(text, str) else ""
    if match := re.fullmatch(r"(?:(.+)\+)?rows:(\d+)", written):
        if not int(match[2]):
            raise ConfigError(f"{written}: rows are those of at least 1 token; leave them out for none")
        if match[1] == "none":
            raise ConfigError(f"{written}: write rows:{match[2]} for rows without neurons")
        beside = parse_shape(match[1]) if match[1] else FeedforwardShape("none")
        if beside.token_rows:
            raise ConfigError(f"{written}: has rows twice; write them once, at the end")
        return beside.with_rows(int(match[2]))
    if written == "none":
        return FeedforwardShape("none")
    if match := re.fullmatch(r"dense:(\d+)", written):
        if not int(match[1]):
            raise ConfigError(f"{written}: a dense layer has at least 1 neuron; write none for no feedforward layer")
        return FeedforwardShape.of_dense(int(match[1]))
    if match := re.fullmatch(r"(\d+)x(\d+)(?:\+(\d+))?", written):
        if not int(match[1]):
            raise ConfigError(f"{written}: a layer of trees has at least 1; write none for no feedforward layer")
        return FeedforwardShape.of_trees(int(match[1]), int(match[2]), int(match[3] or 0))
    raise ConfigError(f"{text!r} is no feedforward layer; write {SHAPES}, such as dense:216 or 12x6+64+rows:8192")


def read_layers(written: Iterable[Any], layers: int, hidden_size: int) -> tuple[FeedforwardShape, ...]:
    """The shapes of `feedforward_layers`, one for each layer.

    Raises `ConfigError` naming the entry that is no shape or does not fit into memory, or a wrong number of them.
    """
    if isinstance(written, str):
        raise ConfigError(f"feedforward_layers must be a list, with an entry for each layer, not {written!r}")
    shapes = []
    for number, text in enumerate(written):
        try:
            shape = parse_shape(text)
            if shape.kind == "fff":
                check_shape(hidden_size, shape.trees, shape.depth)
        except ConfigError as error:
            raise ConfigError(f"feedforward_layers, layer {number}: {error}") from error
        shapes.append(shape)
    if len(shapes) != layers:
        raise ConfigError(
            f"feedforward_layers has {len(shapes)} entries, num_hidden_layers is {layers}: give one for each layer"
        )
    return tuple(shapes)


def describe_layers(shapes: Sequence[FeedforwardShape]) -> str:
    """What each layer has, those alike beside each other at once: "0-1: 12x6, 2: dense:216"."""
    parts, first = [], 0
    for shape, run in groupby(shapes):
        last = first + len(list(run)) - 1
        parts.append(f"{first}: {shape}" if first == last else f"{first}-{last}: {shape}")
        first = last + 1
    return ", ".join(parts)
