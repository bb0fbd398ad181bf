"""Own files with several labels a row, uneven classes, and rows without a label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_finetuning import FAST, sentences, weights, write_checkpoint, write_csv

from ufbert.commands.app import main
from ufbert.errors import ConfigError, DataError
from ufbert.finetuning.classification_data import load_task_data
from ufbert.finetuning.objective import class_weights
from ufbert.finetuning.request import DataRequest, FinetuningRequest
from ufbert.finetuning.run import finetune
from ufbert.finetuning.task_data import TaskData
from ufbert.finetuning.tasks import METRICS, baseline_prediction
from ufbert.inference.pipeline import Pipeline
from ufbert.model.pretrained import read_config
from ufbert.settings.sections import FinetuningSettings
from ufbert.settings.toml import load_settings, settings_to_toml


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "mlm"
    write_checkpoint(folder)
    return folder


def write_jsonl(path: Path, labels: list[Any], texts: list[str] | None = None) -> str:
    rows = [{"text": text, "label": label} for text, label in zip(texts or ["a b"] * len(labels), labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def result(folder: Path, text: str) -> dict[str, Any]:
    (prediction,) = Pipeline(folder)([text])
    assert isinstance(prediction, dict)
    return prediction


def load(train: str, validation: str | None = None, **options: Any) -> TaskData:
    return load_task_data(DataRequest(train=train, validation=validation or train, **options))


def test_several_labels_come_as_lists_or_between_separators(tmp_path: Path) -> None:
    expected = [[0, 1, 1], [0, 0, 0], [1, 0, 0]]
    lists = load(write_jsonl(tmp_path / "a.jsonl", [["cat", "dog"], [], ["ant"]]))
    assert (lists.label_names, lists.problem_type) == (("ant", "cat", "dog"), "multi_label_classification")
    assert lists.train.labels.tolist() == expected
    (tmp_path / "a.csv").write_text("text,label\na,dog; cat\nb,;\nc,ant\n")
    assert load(str(tmp_path / "a.csv"), label_separator=";").train.labels.tolist() == expected
    table = pa.table({"text": ["a", "b", "c"], "label": [[1, 2], [], [0]]})
    feature = {"feature": {"names": ["ant", "cat", "dog"], "_type": "ClassLabel"}, "_type": "List"}
    features = {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    pq.write_table(table.replace_schema_metadata(features), tmp_path / "a.parquet")
    named = load(str(tmp_path / "a.parquet"))
    assert (named.label_names, named.train.labels.tolist()) == (("ant", "cat", "dog"), expected)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([["a"], "b"], "f.jsonl:2: label 'b' is no list, but other rows have lists"),
        ([["a"], [0.0, 1.0]], r"f.jsonl:2: \[0.0, 1.0\] is no list of labels; name those that the row has"),
        ([["a"], ["a"]], "f.jsonl: all 2 training rows have the same labels; nothing to learn"),
        ([[], []], "f.jsonl: no row has any label"),
        ([["a"], None], "f.jsonl:2: 'label' is empty; give the row a label or remove it, or leave out such rows"),
        ([[1], [-1]], r"f.jsonl:2: label \[-1\] is negative, which marks a row without a label"),
        ([0, 1, -1], "f.jsonl:3: label -1 is negative, which marks a row without a label; .* by --skip-unlabelled"),
    ],
)
def test_labels_that_will_not_do_are_named_by_file_and_line(tmp_path: Path, labels: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(write_jsonl(tmp_path / "f.jsonl", labels))


def test_an_unknown_label_of_the_validation_rows(tmp_path: Path) -> None:
    train, other = write_jsonl(tmp_path / "t.jsonl", [["a"], ["b"]]), write_jsonl(tmp_path / "v.jsonl", [["a", "c"]])
    with pytest.raises(DataError, match=r"v.jsonl:1: label 'c' is not among the training labels \(a, b\)"):
        load(train, other)
    with pytest.raises(DataError, match="rows have lists of labels, which are neither values nor single classes"):
        load(train, regression=True)
    with pytest.raises(ConfigError, match="--label-separator takes a character such as ;"):
        load(train, label_separator=";", regression=True)


def test_rows_without_a_label_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    train = tmp_path / "t.jsonl"
    write_jsonl(train, ["pos", None, "neg", "", -1, float("nan")], [f"text {i}" for i in range(6)])
    train.write_text(train.read_text() + '{"text": "text 6"}\n')
    data = load(str(train), skip_unlabelled=True)
    assert data.train.texts == ["text 0", "text 2"]
    assert data.train.labels.tolist() == [1, 0]
    assert data.notes[0] == "5 of 7 rows of t.jsonl have no label and are left out"
    (tmp_path / "t.csv").write_text("text,label\na,1\nb,\nc,-1\nd,0\n")
    assert load(str(tmp_path / "t.csv"), skip_unlabelled=True).train.texts == ["a", "d"]
    # Values may be negative.
    (tmp_path / "v.csv").write_text("text,label\na,-1.5\nb,\nc,2.5\n")
    assert load(str(tmp_path / "v.csv"), skip_unlabelled=True).train.labels.tolist() == [-1.5, 2.5]
    with pytest.raises(DataError, match="none of its 2 rows has a label"):
        load(write_jsonl(tmp_path / "none.jsonl", [None, ""]), skip_unlabelled=True)
    with pytest.raises(ConfigError, match="--skip-unlabelled goes with --train"):
        DataRequest(task="rte", skip_unlabelled=True)


def test_figures_of_several_labels_worked_out_by_hand() -> None:
    labels = np.array([[1, 1, 0], [0, 1, 0], [1, 0, 0]])
    predictions = np.array([[1, 0, 0], [0, 1, 1], [1, 0, 0]])
    # 3 true positives, 1 false positive, 1 false negative
    assert METRICS["micro F1"](labels, predictions) == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert METRICS["macro F1"](labels, predictions) == pytest.approx((1.0 + 2 / 3 + 0.0) / 3)
    assert METRICS["exact match"](labels, predictions) == pytest.approx(1 / 3)
    name, prediction = baseline_prediction(np.array([[0, 1, 0], [1, 1, 0]]), False)
    assert (name, np.asarray(prediction).tolist()) == ("most frequent label", [0.0, 1.0, 0.0])


def test_several_labels_from_the_command_line_to_inference_and_transformers(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, count, seed in (("train", 240, 1), ("validation", 60, 2)):
        rows = sentences(count, seed)
        lines = [
            f"{text},{'|'.join((['lovely'] if label else []) + (['now'] if 'today' in text else [])) or '|'}"
            for text, label in rows
        ]
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    asked = ["--train", "train.csv", "--validation", "validation.csv", "--label-separator", "|", "--out", "out"]
    fast = ["--epochs", "6", "--learning-rate", "0.01", "--device", "cpu", "--set", "finetuning.precision=float32"]
    with pytest.raises(SystemExit) as end:
        main(["finetune", str(checkpoint), *asked, *fast])
    shown = capsys.readouterr().err
    assert not end.value.code, shown
    assert "new head for 2 labels" in shown
    assert "(most frequent label: " in shown
    assert "no better" not in shown
    config = read_config(tmp_path / "out")
    assert (config.problem_type, config.label_names) == ("multi_label_classification", ["lovely", "now"])
    texts = ["the film was lovely today", "the film was awful", "awful here today"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    for suffix in ("jsonl", "csv", "parquet"):
        with pytest.raises(SystemExit) as end:
            main(
                ["infer", "out", "in.jsonl", "--task", "classify", "--output", f"o.{suffix}", "--precision", "float32"]
            )
        assert not end.value.code, capsys.readouterr().err
    results = [json.loads(line) for line in (tmp_path / "o.jsonl").read_text().splitlines()]
    assert [r["labels"] for r in results] == [["lovely", "now"], [], ["now"]]
    assert pq.read_table(tmp_path / "o.parquet")["labels"].to_pylist() == [["lovely", "now"], [], ["now"]]
    assert sum(results[0]["scores"].values()) > 1.0  # each by its own sigmoid
    transformers = pytest.importorskip("transformers")
    import ufbert.hf  # noqa: F401

    pipeline = transformers.pipeline("text-classification", model=str(tmp_path / "out"), top_k=None)
    for text, ours in zip(texts, results, strict=True):
        theirs = {entry["label"]: entry["score"] for entry in pipeline([text])[0]}
        assert theirs == pytest.approx(ours["scores"], abs=1e-5)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    loss = model(torch.tensor([[2, 5, 3]]), labels=torch.tensor([[1.0, 0.0]])).loss
    assert loss.item() > 0


def test_a_head_for_several_labels_is_gone_on_with_but_not_made_one_for_classes(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [text for text, _ in sentences(40, 1)]
    several = write_jsonl(tmp_path / "t.jsonl", [["pos"] if i % 2 else ["neg"] for i in range(40)], texts)
    data = DataRequest(train=several, validation=several)
    finetune(FinetuningRequest(checkpoint, data, FinetuningSettings(epochs=1, device="cpu"), tmp_path / "a"))
    finetune(FinetuningRequest(tmp_path / "a", data, FinetuningSettings(epochs=1, device="cpu"), tmp_path / "b"))
    assert "goes on with the checkpoint's head for 2 labels" in capsys.readouterr().err
    single = DataRequest(train=str(write_csv(tmp_path / "s.csv", 40, 1)))
    finetune(FinetuningRequest(tmp_path / "a", single, FinetuningSettings(epochs=1, device="cpu"), tmp_path / "c"))
    assert "new head for 2 classes: the checkpoint's gives a text any number of labels" in capsys.readouterr().err
    assert result(tmp_path / "c", "a film").keys() == {"label", "score", "scores"}


def test_class_weights_balance_the_classes_or_are_given(tmp_path: Path) -> None:
    data = load(write_jsonl(tmp_path / "a.jsonl", ["a", "a", "a", "b"]))
    balanced = class_weights(data, "balanced")
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])
    several = load(write_jsonl(tmp_path / "b.jsonl", [["a"], ["a", "b"], ["a"], []]))
    balanced = class_weights(several, "balanced")
    assert balanced is not None
    assert balanced.tolist() == pytest.approx([1 / 3, 3.0])
    assert class_weights(data, "") is None
    with pytest.raises(
        ConfigError, match=r"class_weights has 3 weights, the data 2 classes \(a, b\); give one for each"
    ):
        class_weights(data, (1.0, 2.0, 3.0))
    with pytest.raises(ConfigError, match="class_weights needs classes; the labels here are values"):
        class_weights(load(write_jsonl(tmp_path / "c.jsonl", [0.5, 1.5])), "balanced")
    settings = load_settings(None, ["finetuning.class_weights=[1, 2.5]"])
    assert settings.finetuning.class_weights == (1, 2.5)
    (tmp_path / "own.toml").write_text(settings_to_toml(settings))
    assert load_settings(tmp_path / "own.toml") == settings
    assert load_settings(None, ["finetuning.class_weights=balanced"]).finetuning.class_weights == "balanced"
    for bad in ("even", "[1, -1]", '["a"]'):
        with pytest.raises(ConfigError, match=r"finetuning\.class_weights must be"):
            load_settings(None, [f"finetuning.class_weights={bad}"])


def test_a_weight_moves_what_is_predicted(checkpoint: Path, tmp_path: Path) -> None:
    # Texts that say nothing of their class: what is learned is how often each is meant to be said.
    train = write_jsonl(tmp_path / "t.jsonl", ["a"] * 20 + ["b"] * 20, ["the film"] * 40)
    data = DataRequest(train=train, validation=train)
    shares = {}
    for name, given in (("a", (9.0, 1.0)), ("b", (1.0, 9.0))):
        settings = FinetuningSettings(epochs=3, learning_rate=1e-2, device="cpu", class_weights=given)
        finetune(FinetuningRequest(checkpoint, data, settings, tmp_path / name))
        shares[name] = result(tmp_path / name, "the film")["label"]
    assert shares == {"a": "a", "b": "b"}


def test_a_run_stops_when_it_has_waited_for_long_enough(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = DataRequest(
        train=str(write_csv(tmp_path / "t.csv", 40, 1)), validation=str(write_csv(tmp_path / "v.csv", 20, 2))
    )
    figures = iter([0.5, 0.9, 0.7, 0.8, 0.0])
    monkeypatch.setattr("ufbert.finetuning.tasks.Measure.headline", lambda self, scores: next(figures))
    settings = FinetuningSettings(epochs=9, device="cpu", patience=2)
    result = finetune(FinetuningRequest(checkpoint, rows, settings, tmp_path / "out"))
    assert [e.epoch for e in result.report.epochs] == [1, 2, 3, 4]
    assert "stopped after epoch 4: none of the last 2 was better than epoch 2" in capsys.readouterr().err
    card = (tmp_path / "out/README.md").read_text()
    assert "4 of 9 epochs were run, because none of the last 2 was better than epoch 2." in card
    assert read_config(tmp_path / "out").provenance["finetuning"]["epoch"] == 2
    last = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["kept"], last["steps"]) == ("end", 2, 12)


def test_the_same_seed_gives_the_same_bytes_with_every_kind_of_label(checkpoint: Path, tmp_path: Path) -> None:
    texts = [text for text, _ in sentences(40, 1)]
    train = write_jsonl(tmp_path / "t.jsonl", [["a"], ["a", "b"], [], ["b"]] * 10, texts)
    data = DataRequest(train=train, validation=train)
    for name in ("one", "two"):
        finetune(FinetuningRequest(checkpoint, data, FAST, tmp_path / name))
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second
    assert weights(tmp_path / "one")["classifier.scores.weight"].shape[0] == 2
