"""What a finetuning run shows and writes down: progress, the table of epochs, records and the model card."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from ufbert.model.card import model_card
from ufbert.model.config import UltraFastBertConfig
from ufbert.reporting import note
from ufbert.training.display import ProgressDisplay, duration

from .class_report import ClassReport
from .task_data import TrainingData
from .tasks import Scores

__all__ = ["EpochReport", "FinetuningDisplay", "FinetuningReport", "figure"]

# Where nothing is drawn live, a line now and then tells that the run is alive.
LINE_SECONDS = 30.0
# In the table of epochs where there are many figures, so that 80 columns hold it.
ABBREVIATED = {"precision": "prec.", "accuracy": "acc."}
MANY_FIGURES = 4


@dataclass(frozen=True)
class EpochReport:
    """One pass over the training rows, and the figures on every validation set after it."""

    epoch: int
    train_loss: float
    """Mean over the epoch's rows."""
    validation_loss: float
    """Mean over the rows of all validation sets; of tags, over their words."""
    scores: tuple[Scores, ...]
    """One for each validation set."""
    headline: float
    """Mean of the official figures; NaN where one is undefined."""
    seconds: float

    def better_than(self, other: EpochReport | None) -> bool:
        """By the headline figure, then by the validation loss; the earlier of equals wins."""
        return other is None or self.rank() > other.rank()

    def rank(self) -> tuple[float, float]:
        """Higher is better."""
        return tuple(-math.inf if math.isnan(v) else v for v in (self.headline, -self.validation_loss))  # type: ignore[return-value]


@dataclass
class FinetuningReport:
    """The course of a run."""

    data: TrainingData
    baseline_name: str
    baseline: tuple[Scores, ...]
    """Figures of the prediction that reads no text, one for each validation set."""
    keep: str
    """`best` or `last`."""
    planned_epochs: int
    epochs: list[EpochReport] = field(default_factory=list)
    kept: EpochReport | None = None
    """The epoch whose weights are saved."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    interrupted_at: int | None = None
    """The step at which Ctrl-C ended the run."""
    classes: ClassReport | None = None
    """The saved epoch's predictions by class; None for values, and before any validation."""
    stopped_early: bool = False
    """Whether the last epoch was the last that `finetuning.patience` allowed."""

    def record(self, **values: Any) -> None:
        """Add a line to metrics.jsonl; what JSON cannot express becomes null."""
        self.records.append({k: _jsonable(v) for k, v in values.items()})

    def record_epoch(self, epoch: EpochReport) -> None:
        """Add an epoch's line to metrics.jsonl."""
        self.record(
            event="epoch",
            epoch=epoch.epoch,
            train_loss=epoch.train_loss,
            validation_loss=epoch.validation_loss,
            scores=self.by_split(epoch.scores),
            headline=epoch.headline,
            seconds=round(epoch.seconds, 3),
        )

    def metrics_lines(self) -> str:
        """The content of metrics.jsonl."""
        return "".join(json.dumps(record) + "\n" for record in self.records)

    def by_split(self, scores: Sequence[Scores]) -> dict[str, Scores]:
        """Validation set -> its figures."""
        return {split.name: values for split, values in zip(self.data.validation, scores, strict=True)}

    def figures(self, scores: Sequence[Scores]) -> dict[str, float]:
        """Title -> value over all validation sets; MNLI's titles name the set."""
        several = len(self.data.validation) > 1
        return {
            f"{name} {split.removeprefix('validation_')}" if several else name: value
            for split, values in self.by_split(scores).items()
            for name, value in values.items()
        }

    def official(self) -> str:
        """What the headline is the mean of."""
        sets = " over both validation sets" if len(self.data.validation) > 1 else ""
        names = " and ".join(self.data.measure.official)
        return (f"mean of {names}" if len(self.data.measure.official) > 1 or sets else names) + sets

    def kept_words(self) -> str:
        """Which weights are saved and why, as half a sentence."""
        if self.kept is None:
            return f"the weights at step {self.interrupted_at}, before any validation"
        if self.keep == "best":
            return f"epoch {self.kept.epoch}, the best of {len(self.epochs)} by {self.official()}"
        if self.interrupted_at is not None:
            return f"epoch {self.kept.epoch}, the last complete one"
        return f"epoch {self.kept.epoch}, the last"

    def stop_words(self) -> str:
        """Why the run stopped early, as half a sentence."""
        best = max(self.epochs, key=EpochReport.rank)  # the first of equals
        return f"none of the last {len(self.epochs) - best.epoch} was better than epoch {best.epoch}"

    def summary(self) -> str:
        """The saved epoch's figures beside the baseline's."""
        if self.kept is None:
            return "not validated"
        words = []
        baseline = self.figures(self.baseline)
        for name, value in self.figures(self.kept.scores).items():
            beside = "" if math.isnan(baseline[name]) else f" ({self.baseline_name}: {figure(baseline[name])})"
            words.append(f"{name} {figure(value)}{beside}")
        useless = self.kept.headline <= self.data.measure.headline(self.baseline)
        return ", ".join(words) + (f"; no better than the {self.baseline_name}" if useless else "")

    def table(self) -> Table:
        """A row for each epoch and one for the baseline."""
        titles = list(self.figures(self.baseline))
        if len(titles) >= MANY_FIGURES:
            titles = [ABBREVIATED.get(title, title) for title in titles]
        table = Table(title=f"{self.data.name}: {self._validation_words()}", title_justify="left")
        table.caption, table.caption_justify = f"baseline: {self.baseline_name}", "left"
        table.add_column("epoch", no_wrap=True)
        for title in ("train loss", "val. loss", *titles, "seconds"):
            table.add_column(title, justify="right")
        for epoch in self.epochs:
            values = [figure(v) for v in self.figures(epoch.scores).values()]
            saved = " saved" if epoch is self.kept else ""
            losses = (f"{epoch.train_loss:.4f}", f"{epoch.validation_loss:.4f}")
            table.add_row(f"{epoch.epoch}{saved}", *losses, *values, f"{epoch.seconds:.1f}")
        table.add_section()
        values = [figure(v) for v in self.figures(self.baseline).values()]
        table.add_row("baseline", "", "", *values, "")
        return table

    def _validation_words(self) -> str:
        return " and ".join(f"{len(s):,} rows of {s.source}" for s in self.data.validation)

    def card(self, config: UltraFastBertConfig, source: str, command: str) -> str:
        """The saved folder's README.md."""
        data = self.data
        origin = (
            f"Finetuned from `{source}` on {data.name} ({len(data.train):,} rows of {data.train.source}); validated on "
            f"{self._validation_words()}. Saved: {self.kept_words()}."
        )
        if len(self.epochs) < self.planned_epochs:
            origin += f" {len(self.epochs)} of {self.planned_epochs} epochs were run"
            origin += f", because {self.stop_words()}." if self.stopped_early else "."
        origin += "".join(f" Note: {text}." for text in data.notes)
        figures: dict[str, str] = {}
        if self.kept is not None:
            baseline = self.figures(self.baseline)
            for name, value in self.figures(self.kept.scores).items():
                figures[name] = f"{figure(value)} ({self.baseline_name}: {figure(baseline[name])})"
            figures["training loss"] = f"{self.kept.train_loss:.4f}"
            figures["validation loss"] = f"{self.kept.validation_loss:.4f}"
        card = model_card(config, title=f"{data.name} by ufbert", origin=origin, figures=figures, command=command)
        return card if self.classes is None else f"{card}\n{self.classes.markdown()}"


def figure(value: float) -> str:
    """A score for people."""
    return "undefined" if math.isnan(value) else f"{value:.4f}"


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _jsonable(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class FinetuningDisplay(ProgressDisplay):
    """The live line: epoch, loss, rows per second, time left; now and then a plain line off a terminal."""

    def __init__(self, total_steps: int, epochs: int) -> None:
        super().__init__("finetuning", total_steps, seconds=LINE_SECONDS)
        self.epochs = epochs

    def step(self, epoch: int, step: int, loss: float, rows_per_second: float) -> None:
        """After optimiser step number `step` of the run, from 1."""
        if self.live or step < self.total:  # the last step's epoch is about to have its own line
            state = f"loss {loss:.4f}  {rows_per_second:,.0f} rows/s"
            self.show(f"epoch {epoch}/{self.epochs}", step, state, position=f"step {step:,}/{self.total:,}")

    def validating(self, epoch: int) -> None:
        """While the validation sets are run."""
        self.bar.update(self.task, description=f"epoch {epoch}/{self.epochs}, validating")

    def epoch(self, report: FinetuningReport) -> None:
        """After an epoch."""
        done = report.epochs[-1]
        figures = "  ".join(f"{k} {figure(v)}" for k, v in report.figures(done.scores).items())
        saved = "  (saved)" if report.kept is done else ""
        note(
            f"epoch {done.epoch}/{self.epochs}  train loss {done.train_loss:.4f}  validation loss "
            f"{done.validation_loss:.4f}  {figures}  {duration(done.seconds)}{saved}"
        )
        self.restart_clock()
