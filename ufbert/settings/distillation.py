"""How dense layers are distilled into trees: for how long, on how much text, at which rate."""

from __future__ import annotations

from dataclasses import dataclass

from ufbert.errors import ConfigError

from .checks import at_least, one_of
from .durations import parse_duration

__all__ = ["DistillationSettings"]


@dataclass(frozen=True, kw_only=True)
class DistillationSettings:
    """The distillation recipe. Exactly one of `budget`, `minutes` and `steps` says when it ends.

    What is converted into what (the trees' number and depth, the corpus) is no setting: a file must not turn
    an exact conversion into a training.
    """

    budget: str = ""
    """Time (`90s`, `30m`, `1h30m`) of all but reading the corpus and measuring; empty leaves it to `minutes`."""
    minutes: float = 10.0
    """The same as a number of minutes; 0 leaves the end to `budget` or `steps`."""
    steps: int = 0
    """Steps of every layer's regression and of the end-to-end training; 0 leaves the end to the time."""
    batch_size: int = 32
    """Texts of an end-to-end step."""
    learning_rate: float = 5e-4
    """Peak rate of the end-to-end training."""
    sparsity: float = 0.5
    """With `--relu`: weight of the share of a layer's neurons that are active for a token, in the end-to-end loss."""
    task: str = "auto"
    """What is distilled: `embed` (embeddings), `classify`, `tag` or `mlm` (a head's outputs); `auto`: by the head."""
    text_column: str = "text"
    """Column of the text where the corpus has columns."""
    pair_column: str = ""
    """Column of a second text, for classifiers of pairs; empty for none."""
    max_texts: int = 100_000
    """Pieces of text to take from the corpus at most."""
    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    seed: int = 0
    """Seed of the choice and order of texts and tokens."""

    def __post_init__(self) -> None:
        at_least("distillation.minutes", self.minutes, 0)
        at_least("distillation.steps", self.steps, 0)
        if sum(map(bool, (self.budget, self.minutes, self.steps))) != 1:
            raise ConfigError(
                f"exactly one of distillation.budget ({self.budget!r}), distillation.minutes ({self.minutes:g}) and "
                f"distillation.steps ({self.steps}) must be set"
            )
        if self.budget:
            parse_duration(self.budget, "distillation.budget")
        at_least("distillation.batch_size", self.batch_size, 1)
        if not self.learning_rate > 0:
            raise ConfigError(f"distillation.learning_rate must be above 0, not {self.learning_rate!r}")
        if not 0 <= self.sparsity < float("inf"):
            raise ConfigError(f"distillation.sparsity must be a number from 0 on, not {self.sparsity!r}")
        at_least("distillation.max_texts", self.max_texts, 2)
        one_of("distillation.task", self.task, ("auto", "embed", "classify", "tag", "mlm"))
        one_of("distillation.device", self.device, ("auto", "cpu", "cuda"))

    @property
    def seconds(self) -> float | None:
        """The time budget; None if steps rule."""
        if self.budget:
            return parse_duration(self.budget, "distillation.budget")
        return 60.0 * self.minutes if self.minutes else None
