"""What was measured of each layer and each shape, and what was chosen: for the reader, and for a resumed conversion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from ufbert.model.shapes import FeedforwardShape, parse_shape
from ufbert.reporting import console, note
from ufbert.training.display import duration

from .times import MeasuredTimes

__all__ = ["HEADING", "LayerSurvey", "Survey", "show_survey"]

HEADING = "How the shapes were chosen"
# Of a table on stderr, so that it fits into 80 columns.
LAYERS_OF_A_TABLE = 5


@dataclass(frozen=True)
class LayerSurvey:
    """One layer: what its shapes make of it in closed form."""

    layer: int
    before: str
    """The original's shape."""
    errors: Mapping[str, float]
    """Squared and relative, of each shape that was fitted."""
    slower: Sequence[str]
    """Shapes that take as long as the original or longer, and were left out."""
    skipped: Sequence[str]
    """Shapes for which there was no time."""
    chosen: str

    def cell(self, shape: str) -> str:
        """What the table says of a shape."""
        if shape == self.before:
            said = "0"
        elif shape in self.errors:
            said = f"{self.errors[shape]:.3f}"
        else:
            said = "slow" if shape in self.slower else "no time" if shape in self.skipped else ""
        return f"{said} *" if shape == self.chosen else said


@dataclass(frozen=True)
class Survey:
    """The choice, and what it rests on."""

    keep: float | None
    speed: float | None
    """What was asked for."""
    times: MeasuredTimes
    layers: Sequence[LayerSurvey]
    before: Sequence[str]
    after: Sequence[str]
    """The shapes of all layers of the original, and of the student."""
    binds: str
    """Which wish the choice goes by, and what it is expected to come to."""
    quality: str
    """What `keep` is about."""
    expected: float | None
    """Of that, before training; None where nothing is to be kept."""
    tokens: tuple[int, int]
    """Of the text to fit on, and held out."""
    seconds: float
    """That the survey took."""

    @property
    def shapes(self) -> tuple[FeedforwardShape, ...]:
        """Of the student's layers."""
        return tuple(map(parse_shape, self.after))

    @property
    def times_as_fast(self) -> float:
        """The student's speed over the original's, as estimated."""
        estimate = self.times.estimate
        return estimate(self.before, self.before) / max(1e-9, estimate(self.before, self.after))

    @property
    def explanation(self) -> str:
        """What the numbers of the table are."""
        times = self.times
        return (
            "Squared relative error of one layer alone behind its norm, fitted in closed form to "
            f"{self.tokens[0]:,} tokens and measured on {self.tokens[1]:,} held-out ones: 0 exact, 1 its mean output; "
            "slow: no faster than the original, no time: not fitted; * chosen. us: microseconds a token of the layer "
            f"with its norm, in {times.precision}, {times.tokens:,} tokens a call ({times.machine}); the original's "
            f"whole encoder takes {times.whole:.4g}, and {times.estimate(self.before, self.after):.4g} is estimated of "
            f"the student's. All that took {duration(self.seconds)}."
        )

    def columns(self) -> list[str]:
        """Of the table."""
        return ["shape", "us", *(f"layer {layer.layer}" for layer in self.layers)]

    def rows(self) -> list[list[str]]:
        """One for each shape, the slowest first."""
        shapes = sorted(self.times.shapes.items(), key=lambda item: -item[1])
        return [[shape, f"{us:.3g}", *(layer.cell(shape) for layer in self.layers)] for shape, us in shapes]

    def figures(self, kept: float) -> dict[str, str]:
        """For the model card: what was asked for, and what came of it; `kept` is the trained student's quality."""
        figures = {"the choice of the shapes": self.binds}
        if self.speed is not None:
            figures["speed asked for"] = f"{self.speed:g} times the original's; estimated {self.times_as_fast:.2f}"
        if self.keep is not None:
            figures[f"{self.quality}, asked for with --keep"] = (
                f"{self.keep:g}; expected {self.expected:.4f} before training, reached {kept:.4f}"
            )
        return figures

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Survey:
        """What `to_dict` gave."""
        layers = [LayerSurvey(**layer) for layer in content["layers"]]
        tokens = (content["tokens"][0], content["tokens"][1])
        return cls(**{**content, "times": MeasuredTimes(**content["times"]), "layers": layers, "tokens": tokens})


def show_survey(survey: Survey) -> None:
    """The table on stderr, a few layers at a time, and what was chosen."""
    columns, rows = survey.columns(), survey.rows()
    for start in range(2, len(columns), LAYERS_OF_A_TABLE):
        shown = [0, 1, *range(start, min(len(columns), start + LAYERS_OF_A_TABLE))]
        table = Table(title=HEADING if start == 2 else None)
        for i in shown:
            table.add_column(columns[i], justify="right" if i else "left")
        for row in rows:
            table.add_row(*(row[i] for i in shown))
        console().print(table)
    note(survey.explanation)
    note(survey.binds)
