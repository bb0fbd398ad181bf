"""What `ufbert convert --analyse` is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ufbert.errors import ConfigError
from ufbert.settings.distillation import DistillationSettings

__all__ = ["NEURONS", "TOKENS", "AnalysisRequest", "parse_neurons"]

NEURONS = (12, 24, 48, 84, 160, 240, 384, 768)
TOKENS = 32_768


@dataclass(frozen=True)
class AnalysisRequest:
    """One analysis. Raises `ConfigError`, in the options' names, for parts that do not go together."""

    source: str | Path
    """Checkpoint folder or hub id, with dense layers."""
    corpus: tuple[str, ...] = ()
    """Files, globs, folders, hub:NAME or `embedded`: the text whose tokens are looked at."""
    out: Path | None = None
    """New folder for analysis.json, .md and .svg; None writes nothing."""
    neurons: tuple[int, ...] = NEURONS
    """Numbers of neurons a token uses at which the errors are measured, ascending."""
    at: int | None = None
    """The one of `neurons` that table and conclusions are about; None takes that nearest to a 16th of the layer."""
    tokens: int = TOKENS
    """Tokens to fit on, at most; up to half as many are held out to measure on."""
    depth: int | None = None
    """Edges from root to leaf of the trees; None takes, for each number of neurons, depths that use it up."""
    revision: str | None = None
    """Branch, tag or commit of a source on the hub; None takes its main branch."""
    family: str | None = None
    """How the source is laid out, where its config.json does not say."""
    distillation: DistillationSettings = field(default_factory=DistillationSettings)
    """Of which the column of the text, the number of texts, the device and the seed count here."""
    command: str = "ufbert convert --analyse"
    """The command line for the report."""

    def __post_init__(self) -> None:
        if not self.corpus:
            raise ConfigError("--analyse needs text to look at the layers on; give --corpus FILE, or --corpus embedded")
        if self.tokens < 1:
            raise ConfigError(f"--tokens must be at least 1, not {self.tokens}")
        if self.depth is not None and self.depth < 0:
            raise ConfigError(f"--depth must be at least 0, not {self.depth}")
        if self.at is not None and self.at not in self.neurons:
            listed = ",".join(map(str, self.neurons))
            raise ConfigError(f"--at {self.at}: is not among the numbers of neurons that are measured ({listed})")


def parse_neurons(text: str) -> tuple[int, ...]:
    """`12,84,240` -> the numbers in ascending order, each once. Raises `ConfigError`."""
    try:
        numbers = sorted({int(word) for word in text.split(",")})
    except ValueError:
        raise ConfigError(f"--neurons {text}: must be whole numbers with commas between, such as 12,84,240") from None
    if numbers[0] < 1:
        raise ConfigError(f"--neurons {text}: a token uses at least 1 neuron")
    return tuple(numbers)
