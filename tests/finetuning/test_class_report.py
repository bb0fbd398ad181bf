"""Figures by class and the confusion matrix beside a finetuned model."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_finetuning import FAST, write_checkpoint, write_csv, write_glue, write_rows

from ufbert.finetuning.class_report import ClassReport
from ufbert.finetuning.request import DataRequest, FinetuningRequest
from ufbert.finetuning.run import finetune
from ufbert.settings.sections import FinetuningSettings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "mlm"
    write_checkpoint(folder)
    return folder


def test_precision_recall_and_f1_worked_out_by_hand() -> None:
    labels, predictions = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 0, 0])
    a, b, c = ClassReport(["a", "b", "c"], {"validation": (labels, predictions)}).figures()
    assert [a.name, b.name, c.name] == ["a", "b", "c"]
    assert list(a[2:]) == pytest.approx([2 / 4, 2 / 3, 4 / 7, 3])
    assert list(b[2:]) == pytest.approx([1 / 2, 1 / 2, 1 / 2, 2])
    assert list(c[2:]) == [0.0, 0.0, 0.0, 1]
    several = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 1], [0, 1], [0, 0]])
    first, second = ClassReport(["x", "y"], {"validation": several}).figures()
    assert list(first[2:]) == pytest.approx([1.0, 1 / 2, 2 / 3, 2])
    assert list(second[2:]) == pytest.approx([1 / 2, 1.0, 2 / 3, 1])


def test_the_folder_has_the_figures_and_the_picture_of_the_saved_epoch(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = finetune(FinetuningRequest(checkpoint, write_rows(tmp_path), FAST, tmp_path / "out"))
    with (tmp_path / "out/classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["neg", "pos"]
    assert sum(int(row["rows"]) for row in rows) == 80
    kept = result.report.kept
    assert kept is not None
    assert np.mean([float(row["f1"]) for row in rows]) == pytest.approx(kept.scores[0]["macro F1"])
    assert (tmp_path / "out/confusion-matrix.png").read_bytes().startswith(b"\x89PNG")
    card = (tmp_path / "out/README.md").read_text()
    assert "| class | precision | recall | F1 | rows |" in card
    assert "![Confusion matrix](confusion-matrix.png)" in card
    assert "[classes.csv](classes.csv)" in card


def test_without_matplotlib_there_is_no_picture_and_no_link(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    settings = FinetuningSettings(epochs=1, device="cpu")
    finetune(FinetuningRequest(checkpoint, write_rows(tmp_path), settings, tmp_path / "out"))
    assert (tmp_path / "out/classes.csv").is_file()
    assert not list((tmp_path / "out").glob("*.png"))
    assert "confusion" not in (tmp_path / "out/README.md").read_text()


def test_each_validation_set_and_several_labels_have_their_picture(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    settings = FinetuningSettings(epochs=1, device="cpu")
    glue = DataRequest(task="mnli", data=write_glue(tmp_path / "glue", "mnli", rows=12))
    finetune(FinetuningRequest(checkpoint, glue, settings, tmp_path / "mnli"))
    names = sorted(file.name for file in (tmp_path / "mnli").glob("*.png"))
    assert names == ["confusion-matrix-matched.png", "confusion-matrix-mismatched.png"]
    assert "| matched | entailment |" in (tmp_path / "mnli/README.md").read_text()
    lines = [{"text": "a film", "label": labels} for labels in (["a$^"], ["a$^", "b|c"], [], ["b|c"])]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 4))
    several = DataRequest(train=str(tmp_path / "t.jsonl"), validation=str(tmp_path / "t.jsonl"))
    finetune(FinetuningRequest(checkpoint, several, settings, tmp_path / "several"))
    assert (tmp_path / "several/confusion-matrix.png").is_file()
    assert "| b\\|c |" in (tmp_path / "several/README.md").read_text()


def test_values_have_no_classes(checkpoint: Path, tmp_path: Path) -> None:
    train = write_csv(tmp_path / "v.csv", 40, 1, ("1.5", "3.5"))
    settings = FinetuningSettings(epochs=1, device="cpu")
    finetune(FinetuningRequest(checkpoint, DataRequest(train=str(train)), settings, tmp_path / "out"))
    assert not (tmp_path / "out/classes.csv").exists()
    assert "## Classes" not in (tmp_path / "out/README.md").read_text()
