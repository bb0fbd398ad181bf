"""The table of a paper out of GLUE runs: a figure for each task, averages, mean and deviation over the seeds.

A task's score is what UltraFastBERT's table and the code behind it take: F1 for MRPC and QQP, Pearson for STS-B,
Matthews for CoLA, accuracy for the others, of MNLI the mean over its two validation sets. WNLI stays out of
the averages, as in nearly every paper since BERT: its validation set is adversarial to its training set.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from ufbert.training.display import duration

from .tasks import GlueTask

__all__ = ["GlueRun", "GlueTable", "TableRow", "percent"]

ORDER = ("rte", "mrpc", "stsb", "sst2", "mnli", "qnli", "qqp", "cola", "wnli")
"""The paper's, with WNLI behind."""
LEFT_OUT = "wnli"
SCORES = {"mrpc": ("F1",), "qqp": ("F1",), "stsb": ("Pearson",)}
"""What the table takes of a task with several official metrics."""


@dataclass(frozen=True)
class GlueRun:
    """What a finished run says of itself."""

    label: str
    """Its checkpoint."""
    task: str
    seed: int
    scores: dict[str, dict[str, float]]
    """Validation set -> metric -> value of the saved epoch; NaN where undefined."""
    baseline: dict[str, dict[str, float]]
    """The same of the majority class, or of the mean of the training labels."""
    train_rows: int
    validation_rows: dict[str, int]
    step_seconds: float
    """Mean seconds of an optimiser step."""
    seconds: float
    """Of the whole run, validation included."""

    @classmethod
    def from_records(cls, label: str, task: GlueTask, seed: int, records: Sequence[dict[str, Any]]) -> GlueRun:
        """Read the lines of metrics.jsonl. Raises `KeyError` or `TypeError` for other lines."""
        start, end = records[0], records[-1]
        (kept,) = [r for r in records if r["event"] == "epoch" and r["epoch"] == end["kept"]]
        return cls(
            label,
            task.name,
            seed,
            _numbers(kept["scores"]),
            _numbers(start["baseline"]),
            start["train_rows"],
            start["validation_rows"],
            end["step_seconds"],
            end["seconds"],
        )


@dataclass(frozen=True)
class TableRow:
    """A figure of a task, or an average, by checkpoint."""

    task: str
    """GLUE's own name of the task, or `average`, `average without CoLA`."""
    metric: str
    in_score: bool
    """Whether the task's score in the averages is made of it."""
    train_rows: int | None
    validation_rows: int | None
    baseline: float
    values: dict[str, list[float]]
    """Checkpoint -> a value for each seed."""


@dataclass(frozen=True)
class GlueTable:
    """Runs side by side."""

    runs: tuple[GlueRun, ...]
    labels: tuple[str, ...]
    tasks: tuple[GlueTask, ...]
    seeds: tuple[int, ...]
    relative_to: str | None = None

    @property
    def ordered(self) -> list[GlueTask]:
        """The tasks in the paper's order."""
        return sorted(self.tasks, key=lambda task: ORDER.index(task.name))

    def rows(self) -> list[TableRow]:
        """A row for each official figure, then the averages."""
        rows = [row for task in self.ordered for row in self._task_rows(task)]
        averaged = [task for task in self.ordered if task.name != LEFT_OUT]
        without = [task for task in averaged if task.name != "cola"]
        for title, tasks in (("average", averaged), ("average without CoLA", without)):
            if tasks and not (title != "average" and len(without) == len(averaged)):
                rows.append(self._average(title, tasks))
        return rows

    def _task_rows(self, task: GlueTask) -> Iterator[TableRow]:
        several = len(task.validation) > 1
        first = next(run for run in self.runs if run.task == task.name)
        for split in task.validation:
            for metric in task.measure.official:
                title = f"{metric} {split.removeprefix('validation_')}" if several else metric

                def value(figures: dict[str, dict[str, float]], split: str = split, metric: str = metric) -> float:
                    return figures[split][metric]

                yield TableRow(
                    task.folder,
                    title,
                    task.name != LEFT_OUT and metric in _scored(task),
                    first.train_rows,
                    first.validation_rows[split],
                    self._baseline(task, value),
                    {label: [value(run.scores) for run in self._of(label, task)] for label in self.labels},
                )

    def _average(self, title: str, tasks: list[GlueTask]) -> TableRow:
        scores = [
            {label: [task_score(task, run.scores) for run in self._of(label, task)] for label in self.labels}
            for task in tasks
        ]
        return TableRow(
            title,
            f"{len(tasks)} of {8 if title == 'average' else 7} tasks",
            False,
            None,
            None,
            statistics.fmean(self._baseline(task, functools.partial(task_score, task)) for task in tasks),
            {
                label: [statistics.fmean(s[label][i] for s in scores) for i in range(len(self.seeds))]
                for label in self.labels
            },
        )

    def _of(self, label: str, task: GlueTask) -> list[GlueRun]:
        """The runs of a checkpoint and a task, in the order of the seeds."""
        runs = {run.seed: run for run in self.runs if (run.label, run.task) == (label, task.name)}
        return [runs[seed] for seed in self.seeds]

    def _baseline(self, task: GlueTask, value: Callable[[dict[str, dict[str, float]]], float]) -> float:
        return statistics.fmean(value(run.baseline) for run in self._of(self.labels[0], task))

    def share(self, row: TableRow, label: str) -> float:
        """What a checkpoint keeps of the reference's mean; NaN where that is not above zero."""
        assert self.relative_to is not None
        reference = statistics.fmean(row.values[self.relative_to])
        return statistics.fmean(row.values[label]) / reference if reference > 0 else math.nan

    def times(self) -> list[tuple[str, str, float, float]]:
        """(task, checkpoint, mean seconds of a step, seconds of all its runs)."""
        return [
            (
                task.folder,
                label,
                statistics.fmean(run.step_seconds for run in self._of(label, task)),
                sum(run.seconds for run in self._of(label, task)),
            )
            for task in self.ordered
            for label in self.labels
        ]

    def titles(self) -> list[str]:
        """Heads of the columns of `cells`."""
        shares = [] if self.relative_to is None else [f"{n} / {self.relative_to}" for n in self._compared()]
        return ["task", "metric", "train rows", "val. rows", "majority", *self.labels, *shares]

    def cells(self, row: TableRow) -> list[str]:
        """A row for people, figures in percent."""
        counts = ["" if n is None else f"{n:,}" for n in (row.train_rows, row.validation_rows)]
        shares = [] if self.relative_to is None else [percent(self.share(row, n), " %") for n in self._compared()]
        values = [spread(row.values[label]) for label in self.labels]
        return [row.task, row.metric + (" *" if row.in_score else ""), *counts, percent(row.baseline), *values, *shares]

    def _compared(self) -> list[str]:
        return [label for label in self.labels if label != self.relative_to]

    def shown(self) -> list[Table]:
        """The figures, and the times, for the console."""
        figures = Table(title="GLUE, validation sets, in percent", title_justify="left")
        for title in self.titles():
            figures.add_column(title, justify="left" if title in ("task", "metric") else "right", overflow="fold")
        for row in self.rows():
            figures.add_row(*self.cells(row))
        times = Table(title="time", title_justify="left")
        for title in ("task", "checkpoint", "s a step", "all seeds"):
            times.add_column(title, justify="left" if title in ("task", "checkpoint") else "right", overflow="fold")
        for task, label, step, total in self.times():
            times.add_row(task, label, f"{step:.4g}", duration(total))
        times.add_section()
        times.add_row("all tasks", "", "", duration(sum(run.seconds for run in self.runs)))
        return [figures, times]

    def remarks(self) -> list[str]:
        """What the reader of the figures must know, a sentence each."""
        count = len(self.seeds)
        seeds = ", ".join(map(str, self.seeds))
        lines = [
            f"{'mean ± standard deviation over the seeds' if count > 1 else 'one run, with seed'} {seeds}; each of the "
            "epoch that the run saved",
            "* what the averages take of a task; of MNLI the mean of both sets",
            "majority: always the most frequent class of the training rows; for STS-B their mean, whose correlation is "
            "undefined",
            "an undefined figure counts as 0 in an average",
        ]
        if missing := [name for name in ORDER if name not in {task.name for task in self.tasks}]:
            lines.append(f"not in the data, so in no average: {', '.join(missing)}")
        if LEFT_OUT in {task.name for task in self.tasks}:
            lines.append(
                "WNLI is left out of the averages, as is usual: its validation set contradicts its training set"
            )
        return lines


def task_score(task: GlueTask, scores: dict[str, dict[str, float]]) -> float:
    """What the averages take of a task; an undefined figure is 0."""
    values = [scores[split][metric] for split in task.validation for metric in _scored(task)]
    return statistics.fmean(0.0 if math.isnan(v) else v for v in values)


def _scored(task: GlueTask) -> tuple[str, ...]:
    return SCORES.get(task.name, task.measure.official)


def percent(value: float, unit: str = "") -> str:
    """A figure from 0 to 1 in percent, to a decimal."""
    return "undefined" if math.isnan(value) else f"{100 * value:.1f}{unit}"


def spread(values: Sequence[float]) -> str:
    """Mean and, for several values, their sample standard deviation, in percent."""
    mean = percent(statistics.fmean(values))
    return mean if len(values) == 1 or math.isnan(sum(values)) else f"{mean} ± {100 * statistics.stdev(values):.1f}"


def _numbers(scores: dict[str, dict[str, float | None]]) -> dict[str, dict[str, float]]:
    """JSON's null is what was undefined."""
    return {
        split: {name: math.nan if value is None else float(value) for name, value in values.items()}
        for split, values in scores.items()
    }
