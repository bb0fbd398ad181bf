"""What a worker is told, and what it must offer; neither torch nor any framework is imported here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["TEXT_FILE", "Ids", "Job", "Runner", "States", "draw_inputs"]

Ids = npt.NDArray[np.int64]
States = npt.NDArray[np.float32]

# Ids below are the special ones of the tokenizer.
FIRST_WORD = 5
TEXT_FILE = "text.npy"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One implementation in one precision."""

    module: str
    precision: str
    device: str
    threads: int
    folder: str
    """Where the models and what was made of them lie."""
    sequence_length: int
    vocabulary: int
    seed: int
    peer_model: str = "bert"
    """The folder that transformers loads, seen from `folder`."""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """`folder`."""
        return Path(self.folder)

    def to_dict(self) -> dict[str, Any]:
        """For the pipe."""
        return dataclasses.asdict(self)

    def draw(self, batches: int, batch: int, *, seed: int | None = None) -> list[Ids]:
        """Different tokens (B, T) for each call, the same ones for each implementation.

        They are rows of the folder's text, where it has one (N, T), else random.
        """
        seed = self.seed if seed is None else seed
        if not (file := self.path / TEXT_FILE).exists():
            return draw_inputs(batches, batch, self.sequence_length, self.vocabulary, seed)
        rows = np.load(file)
        generator = np.random.default_rng([seed, batch])
        return [rows[generator.integers(0, len(rows), batch)].astype(np.int64) for _ in range(batches)]


class Runner(Protocol):
    """A loaded model."""

    versions: dict[str, str]
    """Of the packages it runs on."""

    def shape(self, batch: int, length: int) -> None:
        """Make ready for batches of this shape; anything compiled for another one may go."""

    def take(self, ids: Ids) -> Any:
        """ids (B, T) as `run` takes them; not timed."""

    def run(self, taken: Any) -> Any:
        """What is timed: returns when the hidden states are there."""

    def states(self, result: Any) -> States:
        """What `run` returned, as (B, T, H) of float32; not timed."""


def draw_inputs(batches: int, batch: int, length: int, vocabulary: int, seed: int) -> list[Ids]:
    """Different random tokens (B, T) for each call, the same ones for each implementation."""
    generator = np.random.default_rng([seed, batch, length])
    return [generator.integers(min(FIRST_WORD, vocabulary - 1), vocabulary, (batch, length)) for _ in range(batches)]
