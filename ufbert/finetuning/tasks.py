"""What is asked of a finetuned model: the GLUE tasks, their official metrics, and the trivial baseline.

Source of tasks and metrics: Wang et al. 2018, "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural
Language Understanding", table 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ufbert.errors import ConfigError

__all__ = [
    "CLASSIFICATION",
    "GLUE",
    "METRICS",
    "MULTI_LABEL",
    "REGRESSION",
    "TAGGING",
    "GlueTask",
    "Measure",
    "baseline_prediction",
    "glue_task",
]

Values = npt.NDArray[Any]
Scores = dict[str, float]


def accuracy(labels: Values, predictions: Values) -> float:
    """Share of the rows whose class is right."""
    return float(np.mean(labels == predictions))


def f1(labels: Values, predictions: Values) -> float:
    """Harmonic mean of precision and recall of class 1; 0 where neither is defined."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, pos_label=1, average="binary", zero_division=0))


def macro_f1(labels: Values, predictions: Values) -> float:
    """Mean of the F1 of every class that occurs."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="macro", zero_division=0))


def matthews(labels: Values, predictions: Values) -> float:
    """Matthews correlation; 0 where all predictions, or all labels, are of one class."""
    from sklearn.metrics import matthews_corrcoef

    # scikit-learn warns when it sees a single class in both.
    return float(matthews_corrcoef(labels, predictions)) if len(np.unique([labels, predictions])) > 1 else 0.0


def pearson(labels: Values, predictions: Values) -> float:
    """Linear correlation; NaN where it is undefined because one side is constant."""
    from scipy.stats import pearsonr

    return math.nan if _constant(labels, predictions) else float(pearsonr(labels, predictions)[0])


def spearman(labels: Values, predictions: Values) -> float:
    """Rank correlation; NaN where it is undefined because one side is constant."""
    from scipy.stats import spearmanr

    return math.nan if _constant(labels, predictions) else float(spearmanr(labels, predictions)[0])


def micro_f1(labels: Values, predictions: Values) -> float:
    """F1 over all decisions on labels: (rows, labels) of 0 and 1."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels, predictions, average="micro", zero_division=0))


def exact_match(labels: Values, predictions: Values) -> float:
    """Share of the rows whose labels are all right: (rows, labels) of 0 and 1."""
    return float(np.mean((labels == predictions).all(axis=1)))


def rmse(labels: Values, predictions: Values) -> float:
    """Root of the mean squared error, in the labels' unit."""
    return float(np.sqrt(np.mean((labels - predictions) ** 2)))


def _constant(labels: Values, predictions: Values) -> bool:
    # A spread at the level of rounding is none: correlations of it are noise.
    return any(
        len(v) < 2 or not np.all(np.isfinite(v)) or float(np.ptp(v)) <= 1e-9 * float(np.max(np.abs(v)))
        for v in (labels, predictions)
    )


METRICS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": accuracy,
    "F1": f1,
    "macro F1": macro_f1,
    "micro F1": micro_f1,
    "exact match": exact_match,
    "Matthews": matthews,
    "Pearson": pearson,
    "Spearman": spearman,
    "RMSE": rmse,
}


@dataclass(frozen=True)
class Measure:
    """The figures of a task; the mean of the `official` ones picks the best epoch."""

    official: tuple[str, ...]
    further: tuple[str, ...] = ()

    def scores(self, labels: Values, predictions: Values) -> Scores:
        """Name -> value. Class numbers or values, both (rows,), or (rows, labels) of 0 and 1."""
        return {name: METRICS[name](labels, predictions) for name in (*self.official, *self.further)}

    def headline(self, scores: Sequence[Scores]) -> float:
        """The mean of the official figures over the validation sets; NaN if one is undefined."""
        return float(np.mean([s[name] for s in scores for name in self.official]))


CLASSIFICATION = Measure(("accuracy",), ("macro F1",))
MULTI_LABEL = Measure(("micro F1", "macro F1"), ("exact match",))
REGRESSION = Measure(("Pearson", "Spearman"), ("RMSE",))
TAGGING = Measure(("F1",), ("precision", "recall", "accuracy"))
"""Of whole entities; the accuracy is that of tags (`entities`)."""


@dataclass(frozen=True)
class GlueTask:
    """Where the rows of a GLUE task are and what they are judged by."""

    name: str
    columns: tuple[str, ...]
    """The text column, or the two of a pair, in Hugging Face's copy."""
    labels: tuple[str, ...] | None
    """Class names in Hugging Face's order; None for values."""
    measure: Measure
    folder: str
    """The task's folder in GLUE's own download."""
    tsv_columns: tuple[str, ...] = ()
    """Text columns in GLUE's own tsv files, where they are named otherwise."""
    tsv_label: str = "label"
    """Label column in GLUE's own tsv files."""
    tsv_header: tuple[str, ...] | None = None
    """Columns of GLUE's own tsv files if those have no header row."""
    validation: tuple[str, ...] = ("validation",)
    """Validation sets; MNLI has two."""


ENTAILMENT = ("entailment", "not_entailment")
PAIR = ("sentence1", "sentence2")

GLUE: dict[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            "cola",
            ("sentence",),
            ("unacceptable", "acceptable"),
            Measure(("Matthews",), ("accuracy",)),
            "CoLA",
            tsv_header=("source", "label", "annotation", "sentence"),
        ),
        GlueTask("sst2", ("sentence",), ("negative", "positive"), Measure(("accuracy",)), "SST-2"),
        GlueTask(
            "mrpc",
            PAIR,
            ("not_equivalent", "equivalent"),
            Measure(("F1", "accuracy")),
            "MRPC",
            tsv_columns=("#1 String", "#2 String"),
            tsv_label="Quality",
        ),
        GlueTask("stsb", PAIR, None, REGRESSION, "STS-B", tsv_label="score"),
        GlueTask("rte", PAIR, ENTAILMENT, Measure(("accuracy",)), "RTE"),
        GlueTask("wnli", PAIR, ("not_entailment", "entailment"), Measure(("accuracy",)), "WNLI"),
        GlueTask("qnli", ("question", "sentence"), ENTAILMENT, Measure(("accuracy",)), "QNLI"),
        GlueTask(
            "qqp",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            Measure(("F1", "accuracy")),
            "QQP",
            tsv_label="is_duplicate",
        ),
        GlueTask(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            Measure(("accuracy",)),
            "MNLI",
            tsv_columns=PAIR,
            tsv_label="gold_label",
            validation=("validation_matched", "validation_mismatched"),
        ),
    )
}


def glue_task(name: str) -> GlueTask:
    """The task that `glue/rte`, or just `rte`, names. Raises `ConfigError` listing the known ones."""
    key = name.lower().removeprefix("glue/").replace("-", "").replace("_", "")
    if key not in GLUE:
        known = ", ".join(f"glue/{task}" for task in GLUE)
        raise ConfigError(f"unknown task {name!r}; known: {known}; for your own data give --train")
    return GLUE[key]


def baseline_prediction(labels: Values, regression: bool) -> tuple[str, float | Values]:
    """What a model that has read no text would say, learned from the training labels: name and value.

    The most frequent class, the most frequent label alone as a row of 0 and 1, or the mean of the values. A score
    means something only beside this one's.
    """
    if regression:
        return "mean of the training labels", float(np.mean(labels))
    if labels.ndim == 2:
        return "most frequent label", np.eye(labels.shape[1])[int(np.argmax(labels.sum(0)))]
    return "most frequent class", float(np.argmax(np.bincount(labels.astype(np.int64))))
