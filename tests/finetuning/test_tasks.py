"""The GLUE tasks' metrics against scipy, scikit-learn and hand calculation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from ufbert.errors import ConfigError
from ufbert.finetuning.tasks import CLASSIFICATION, GLUE, METRICS, Measure, baseline_prediction, glue_task

LABELS = np.array([1, 1, 1, 0, 0, 1, 0, 1, 0, 0])
PREDICTIONS = np.array([1, 0, 1, 0, 1, 1, 0, 1, 1, 0])
VALUES = np.array([0.0, 1.5, 3.0, 5.0, 2.5, 4.0])
GUESSES = np.array([0.4, 1.0, 2.0, 6.0, 3.5, 3.0])


def test_class_metrics_on_numbers_worked_out_by_hand() -> None:
    # 4 true positives, 1 false negative, 2 false positives, 3 true negatives
    assert METRICS["accuracy"](LABELS, PREDICTIONS) == pytest.approx(7 / 10)
    assert METRICS["F1"](LABELS, PREDICTIONS) == pytest.approx(2 * 4 / (2 * 4 + 2 + 1))
    assert METRICS["macro F1"](LABELS, PREDICTIONS) == pytest.approx((8 / 11 + 6 / 9) / 2)
    assert METRICS["Matthews"](LABELS, PREDICTIONS) == pytest.approx((4 * 3 - 2 * 1) / math.sqrt(6 * 5 * 5 * 4))


def test_metrics_equal_the_libraries() -> None:
    assert METRICS["Matthews"](LABELS, PREDICTIONS) == pytest.approx(
        sklearn.metrics.matthews_corrcoef(LABELS, PREDICTIONS)
    )
    assert METRICS["Pearson"](VALUES, GUESSES) == pytest.approx(scipy.stats.pearsonr(VALUES, GUESSES).statistic)
    assert METRICS["Spearman"](VALUES, GUESSES) == pytest.approx(scipy.stats.spearmanr(VALUES, GUESSES).statistic)
    assert METRICS["RMSE"](VALUES, GUESSES) == pytest.approx(
        math.sqrt(sklearn.metrics.mean_squared_error(VALUES, GUESSES))
    )


def test_degenerate_predictions_have_a_defined_outcome() -> None:
    ones = np.ones(10, dtype=np.int64)
    assert METRICS["Matthews"](LABELS, ones) == 0.0
    assert METRICS["Matthews"](ones, ones) == 0.0
    assert METRICS["F1"](1 - ones, 1 - ones) == 0.0
    for name in ("Pearson", "Spearman"):
        assert math.isnan(METRICS[name](VALUES, np.full(6, 2.6)))
        assert math.isnan(METRICS[name](VALUES, np.full(6, np.nan)))
        assert math.isnan(METRICS[name](VALUES[:1], GUESSES[:1]))


@pytest.mark.parametrize(
    ("task", "official"),
    [
        ("cola", ("Matthews",)),
        ("sst2", ("accuracy",)),
        ("mrpc", ("F1", "accuracy")),
        ("stsb", ("Pearson", "Spearman")),
        ("rte", ("accuracy",)),
        ("wnli", ("accuracy",)),
        ("qnli", ("accuracy",)),
        ("qqp", ("F1", "accuracy")),
        ("mnli", ("accuracy",)),
    ],
)
def test_each_task_has_its_official_metrics(task: str, official: tuple[str, ...]) -> None:
    assert GLUE[task].measure.official == official


def test_mnli_is_validated_on_both_sets_and_headed_by_their_mean() -> None:
    assert GLUE["mnli"].validation == ("validation_matched", "validation_mismatched")
    assert GLUE["mnli"].measure.headline([{"accuracy": 0.5}, {"accuracy": 0.7}]) == pytest.approx(0.6)


def test_the_headline_is_the_mean_of_the_official_figures_only() -> None:
    measure = Measure(("F1", "accuracy"), ("Matthews",))
    scores = measure.scores(LABELS, PREDICTIONS)
    assert list(scores) == ["F1", "accuracy", "Matthews"]
    assert measure.headline([scores]) == pytest.approx((8 / 11 + 0.7) / 2)
    assert math.isnan(Measure(("Pearson",)).headline([{"Pearson": math.nan}]))


def test_tasks_are_found_by_their_usual_names_and_an_unknown_one_lists_them() -> None:
    for name in ("glue/sst2", "sst2", "SST-2", "glue/SST-2"):
        assert glue_task(name) is GLUE["sst2"]
    with pytest.raises(ConfigError, match=r"unknown task 'glue/rtee'; known: glue/cola, glue/sst2, .*give --train"):
        glue_task("glue/rtee")


def test_the_baseline_reads_no_text() -> None:
    assert baseline_prediction(np.array([0, 2, 2, 1]), False) == ("most frequent class", 2.0)
    assert baseline_prediction(np.array([1.0, 2.0, 6.0]), True) == ("mean of the training labels", 3.0)
    assert CLASSIFICATION.scores(np.array([2, 0]), np.array([2, 2]))["accuracy"] == 0.5
