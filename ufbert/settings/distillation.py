"""What a distillation is told: sizes of the trees, text, and how long it may take."""

from __future__ import annotations

from dataclasses import dataclass

from ufbert.errors import ConfigError

__all__ = ["DistillationSettings"]

DEFAULT_MINUTES = 10.0


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """Raises `ConfigError`, in the options' names, for a value out of range."""

    trees: int
    """P of every layer."""
    depth: int
    """D of every layer."""
    corpus: tuple[str, ...]
    """Files, globs, folders, hub:NAME or `embedded`."""
    text_column: str = "text"
    """Column of the text where the files have columns."""
    minutes: float | None = None
    """Time for everything but reading the corpus and measuring; None with `steps`."""
    steps: int | None = None
    """Steps of every layer's regression and of the end-to-end training, in place of `minutes`."""
    batch_size: int = 32
    """Texts of an end-to-end step."""
    learning_rate: float = 5e-4
    """Peak rate of the end-to-end training."""
    max_texts: int = 100_000
    """Pieces of text to take from the corpus at most."""
    seed: int = 0
    """Seed of the order of texts and tokens."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""

    def __post_init__(self) -> None:
        if self.trees < 1:
            raise ConfigError(f"--trees must be at least 1, not {self.trees}")
        if self.depth < 0:
            raise ConfigError(f"--depth must be at least 0, not {self.depth}")
        if self.minutes is not None and self.steps is not None:
            raise ConfigError("give --minutes or --steps, not both")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"--minutes must be above 0, not {self.minutes}")
        if self.steps is not None and self.steps < 1:
            raise ConfigError(f"--steps must be at least 1, not {self.steps}")
        if self.batch_size < 1:
            raise ConfigError(f"--batch-size must be at least 1, not {self.batch_size}")
        if not self.learning_rate > 0:
            raise ConfigError(f"--learning-rate must be above 0, not {self.learning_rate}")
        if self.max_texts < 2:
            raise ConfigError(f"--max-texts must be at least 2, not {self.max_texts}")

    @property
    def seconds(self) -> float | None:
        """The time budget; None if steps rule."""
        return None if self.steps is not None else 60.0 * (self.minutes or DEFAULT_MINUTES)
