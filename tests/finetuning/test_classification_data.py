"""Labelled rows out of files: what becomes a class, what a value, and the line of everything that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ufbert.errors import ConfigError, DataError
from ufbert.finetuning.classification_data import load_task_data
from ufbert.finetuning.request import DataRequest
from ufbert.finetuning.task_data import TaskData


def csv_file(path: Path, labels: list[str]) -> Path:
    rows = [f'"text {i}, quoted",{label}' for i, label in enumerate(labels)]
    path.write_text("\n".join(["text,label", *rows]) + "\n", encoding="utf-8")
    return path


def jsonl_file(path: Path, labels: list[Any]) -> Path:
    rows = [json.dumps({"text": f"text {i}", "label": label}) for i, label in enumerate(labels)]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def load(train: Path, validation: Path | None = None, **options: Any) -> TaskData:
    return load_task_data(DataRequest(train=str(train), validation=str(validation or train), **options))


def error_of(train: Path, validation: Path | None = None, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(train, validation, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_string_labels_become_classes_in_alphabetical_order(tmp_path: Path) -> None:
    data = load(csv_file(tmp_path / "a.csv", ["pos", "neg", " pos ", "neutral"]))
    assert data.label_names == ("neg", "neutral", "pos")
    assert data.train.labels.tolist() == [2, 0, 2, 1]
    assert data.train.texts[0] == "text 0, quoted"
    assert (data.name, data.measure.official, data.regression) == ("a", ("accuracy",), False)


@pytest.mark.parametrize("make", [csv_file, jsonl_file])
def test_whole_numbers_become_classes_in_their_order(tmp_path: Path, make: Any) -> None:
    labels = [10, 9, 2, 10] if make is jsonl_file else ["10", "9", "2", "10"]
    data = load(make(tmp_path / f"a.{make.__name__[:-5]}", labels))
    assert data.label_names == ("2", "9", "10")
    assert data.train.labels.tolist() == [2, 1, 0, 2]


def test_truth_values_become_classes(tmp_path: Path) -> None:
    data = load(jsonl_file(tmp_path / "a.jsonl", [True, False, True]))
    assert data.label_names == ("false", "true")
    assert data.train.labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("make", [csv_file, jsonl_file])
def test_numbers_with_a_decimal_point_are_values_unless_told_otherwise(tmp_path: Path, make: Any) -> None:
    labels: list[Any] = [1.5, 2.0, 3.0] if make is jsonl_file else ["1.5", "2", "3e0"]
    path = make(tmp_path / f"a.{make.__name__[:-5]}", labels)
    data = load(path)
    assert data.regression
    assert data.label_names is None
    assert data.train.labels.tolist() == [1.5, 2.0, 3.0]
    assert "regression (--classification makes them classes)" in data.notes[0]
    assert load(path, regression=False).label_names is not None
    assert load(csv_file(tmp_path / "b.csv", ["1", "2", "3"]), regression=True).train.labels.dtype == np.float64


def test_class_names_of_parquet_metadata_are_kept(tmp_path: Path) -> None:
    features = {"info": {"features": {"label": {"names": ["zebra", "ant", "bee"], "_type": "ClassLabel"}}}}
    table = pa.table({"text": ["a", "b"], "label": [0, 2]}).replace_schema_metadata(
        {"huggingface": json.dumps(features)}
    )
    path = tmp_path / "a.parquet"
    pq.write_table(table, path)
    data = load(path)
    assert data.label_names == ("zebra", "ant", "bee")
    assert data.train.labels.tolist() == [0, 2]
    # A file without metadata may name the classes or number them.
    assert load(path, jsonl_file(tmp_path / "b.jsonl", ["bee", 1])).validation[0].labels.tolist() == [2, 1]
    assert "b2.jsonl:2: label 3 is not among" in error_of(path, jsonl_file(tmp_path / "b2.jsonl", [0, 3]))


def test_pairs_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('q\tp\ty\n"one\ttwo\tno\nthree\tfour\tyes\n', encoding="utf-8")
    data = load(path, text_column="q", pair_column="p", label_column="y")
    assert data.train.texts == ['"one', "three"]
    assert data.train.pairs == ["two", "four"]


def test_without_a_validation_file_a_stated_share_is_held_out(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["x", "y"] * 50)
    request = DataRequest(train=str(path), validation_fraction=0.2)
    data = load_task_data(request, seed=3)
    texts = data.train.texts + data.validation[0].texts
    assert (len(data.train), len(data.validation[0])) == (80, 20)
    assert len(set(texts)) == 100
    assert "20 of 100 rows of a.csv, drawn with seed 3, are held out" in data.notes[-1]
    assert load_task_data(request, seed=3).train.texts == data.train.texts
    assert load_task_data(request, seed=4).train.texts != data.train.texts
    assert len(load_task_data(DataRequest(train=str(path))).validation[0]) == 10


def test_samples_are_random_repeatable_and_stated(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["x"] * 50 + ["y"] * 50)
    data = load(path, max_train_rows=40, max_validation_rows=7)
    assert (len(data.train), len(data.validation[0])) == (40, 7)
    assert 0.2 < data.train.labels.mean() < 0.8  # not the first rows
    assert data.notes == (
        "train: 40 of 100 rows, drawn with seed 0",
        "validation: 7 of 100 rows, drawn with seed 0",
    )


def test_errors_name_file_and_line(tmp_path: Path) -> None:
    good = csv_file(tmp_path / "good.csv", ["no", "yes"])
    assert error_of(good, csv_file(tmp_path / "v.csv", ["yes", "maybe"])) == (
        f"{tmp_path}/v.csv:3: label 'maybe' is not among the training classes (no, yes); mend or remove the row"
    )
    # A number is no class where the classes have names.
    assert "v.csv:2: label '1' is not among" in error_of(good, csv_file(tmp_path / "v.csv", ["1"]))
    assert "good.csv:1: no column 'stars'; it has: text, label" in error_of(good, label_column="stars")
    assert "e.csv:3: 'label' is empty" in error_of(csv_file(tmp_path / "e.csv", ["a", " "]))
    assert "e.jsonl:2: 'label' is empty" in error_of(jsonl_file(tmp_path / "e.jsonl", ["a", None]))
    assert "all 2 training rows are of class 'a'" in error_of(csv_file(tmp_path / "one.csv", ["a", "a"]))
    assert "r.csv:3: label 'n/a' is not a finite number" in error_of(
        csv_file(tmp_path / "r.csv", ["1.5", "n/a", "2.5"])
    )
    assert "n.csv:2: 'label' is nan, which stands for none" in error_of(csv_file(tmp_path / "n.csv", ["nan", "2"]))
    assert "s.csv:2: label 'a' is not a finite number" in error_of(
        csv_file(tmp_path / "s.csv", ["a", "b"]), regression=True
    )
    assert "d.jsonl:2: label {'a': 1} is neither text nor a number" in error_of(
        jsonl_file(tmp_path / "d.jsonl", ["a", {"a": 1}])
    )
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    assert "empty.csv: no rows in it" in error_of(tmp_path / "empty.csv")
    assert "no such file" in error_of(tmp_path / "absent.csv")


def test_a_text_column_taken_for_the_label_is_noticed(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", [f"id-{i}" for i in range(60)])
    assert "60 different labels in 60 rows, such as 'id-0'; give the --label-column of classes" in error_of(path)


def test_too_few_rows_to_hold_any_out(tmp_path: Path) -> None:
    path = csv_file(tmp_path / "a.csv", ["x"])
    with pytest.raises(DataError, match=r"1 row\(s\) are too few to hold out 1 for validation; give more"):
        load_task_data(DataRequest(train=str(path)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either --task glue/NAME or --train FILE"),
        ({"task": "rte", "train": "a.csv"}, "give either --task glue/NAME or --train FILE"),
        ({"task": "rte", "label_column": "y"}, "--label-column goes with --train"),
        ({"task": "nope"}, "unknown task 'nope'"),
        ({"train": "a.csv", "data": Path("d")}, "--data goes with --task"),
        ({"train": "a.csv", "validation": "b.csv", "validation_fraction": 0.1}, "not both"),
        ({"train": "a.csv", "validation_fraction": 1.0}, "--validation-fraction must lie between 0 and 1"),
        ({"train": "a.csv", "text_column": "x", "label_column": "x"}, "column 'x' cannot be two of"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        DataRequest(**options)
