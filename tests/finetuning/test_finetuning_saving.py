"""What a finetuning run saves: which epoch, when interrupted, when the disk is full."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from tiny_finetuning import FAST, weights, write_checkpoint, write_rows

from ufbert import UltraFastBertForSequenceClassification
from ufbert.errors import ConfigError, OutputError
from ufbert.finetuning.report import EpochReport, FinetuningDisplay
from ufbert.finetuning.request import DataRequest, FinetuningRequest
from ufbert.finetuning.run import finetune
from ufbert.model.pretrained import read_config
from ufbert.settings.sections import FinetuningSettings


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained model that has learned nothing, with its tokenizer."""
    folder = tmp_path_factory.mktemp("model") / "mlm"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> DataRequest:
    """240 rows to learn from, 80 to be judged by."""
    return write_rows(tmp_path)


def test_a_score_that_is_no_better_than_the_baseline_is_said_to_be(
    checkpoint: Path, rows: DataRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = FinetuningSettings(epochs=1, learning_rate=0.0, device="cpu")
    finetune(FinetuningRequest(checkpoint, rows, settings, tmp_path / "out"))
    assert capsys.readouterr().err.endswith("; no better than the most frequent class\n")


def test_settings_reach_the_saved_model(checkpoint: Path, rows: DataRequest, tmp_path: Path) -> None:
    settings = FinetuningSettings(epochs=1, dropout=0.3, pooling="first", device="cpu", keep="last")
    finetune(FinetuningRequest(checkpoint, rows, settings, tmp_path / "out"))
    config = read_config(tmp_path / "out")
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == config.classifier_dropout == 0.3
    assert config.classifier_pooling == "first"
    assert config.architectures == ("UltraFastBertForSequenceClassification",)
    assert config.provenance["finetuning"] == {"task": "train", "from": str(checkpoint), "epoch": 1}


def test_the_best_epoch_is_kept_or_the_last(
    checkpoint: Path, rows: DataRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = [0.5, 0.9, 0.7]
    for keep, expected in (("best", 2), ("last", 3)):
        left = iter([*figures, 0.0])  # the last for the baseline
        monkeypatch.setattr("ufbert.finetuning.tasks.Measure.headline", lambda self, scores, left=left: next(left))
        settings = FinetuningSettings(epochs=3, device="cpu", keep=keep)
        result = finetune(FinetuningRequest(checkpoint, rows, settings, tmp_path / keep))
        assert result.report.kept is not None
        assert result.report.kept.epoch == expected
        assert read_config(result.folder).provenance["finetuning"]["epoch"] == expected
        assert len([r for r in result.report.records if r["event"] == "epoch"]) == 3
        assert result.report.metrics_lines() == (result.folder / "metrics.jsonl").read_text()


def test_equal_figures_are_ranked_by_loss_and_undefined_ones_come_last() -> None:
    def epoch(number: int, headline: float, loss: float) -> EpochReport:
        return EpochReport(number, 0.0, loss, (), headline, 0.0)

    assert epoch(2, 0.8, 0.9).better_than(epoch(1, 0.7, 0.1))
    assert epoch(2, 0.8, 0.4).better_than(epoch(1, 0.8, 0.5))
    assert not epoch(2, 0.8, 0.5).better_than(epoch(1, 0.8, 0.5))
    assert epoch(2, 0.0, 0.5).better_than(epoch(1, math.nan, 0.1))
    assert not epoch(2, math.nan, 0.1).better_than(epoch(1, -0.5, 0.5))


@pytest.mark.parametrize(("at", "saved"), [(7, "the weights at step 7, before any validation"), (20, "epoch 1")])
def test_ctrl_c_saves_what_there_is(
    checkpoint: Path,
    rows: DataRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    at: int,
    saved: str,
) -> None:
    def step(self: FinetuningDisplay, epoch: int, step: int, loss: float, speed: float) -> None:
        if step == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(FinetuningDisplay, "step", step)
    with pytest.raises(KeyboardInterrupt):
        finetune(FinetuningRequest(checkpoint, rows, FAST, tmp_path / "out"))
    assert f"interrupted at step {at} of 60; saved to {tmp_path / 'out'}: {saved}" in capsys.readouterr().err
    assert weights(tmp_path / "out")
    assert saved in (tmp_path / "out/README.md").read_text()
    last = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[-1])
    assert last == {"event": "interrupted", "step": at}


def test_ctrl_c_before_the_first_step_saves_nothing(
    checkpoint: Path, rows: DataRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("ufbert.finetuning.epochs.training_batches", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finetune(FinetuningRequest(checkpoint, rows, FAST, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_the_epoch_before(
    checkpoint: Path, rows: DataRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, calls = UltraFastBertForSequenceClassification.write, []

    def fill(self: UltraFastBertForSequenceClassification, folder: Path, **options: Any) -> None:
        calls.append(folder)
        write(self, folder, **options)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(UltraFastBertForSequenceClassification, "write", fill)
    settings = FinetuningSettings(epochs=3, device="cpu", keep="last")
    with pytest.raises(OutputError, match="out: no space left on the disk"):
        finetune(FinetuningRequest(checkpoint, rows, settings, tmp_path / "out"))
    assert read_config(tmp_path / "out").provenance["finetuning"]["epoch"] == 1
    assert weights(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "train.csv", "validation.csv"]


def test_a_diverging_loss_is_one_line(checkpoint: Path, rows: DataRequest, tmp_path: Path) -> None:
    settings = FinetuningSettings(epochs=1, learning_rate=1e30, device="cpu", precision="float32", warmup_fraction=0.0)
    with pytest.raises(
        ConfigError, match=r"the training loss became (nan|inf) at step \d+ of 15; lower finetuning.lear"
    ):
        finetune(FinetuningRequest(checkpoint, rows, settings, tmp_path / "out"))


def test_the_default_folder_is_the_next_free_one(
    checkpoint: Path, rows: DataRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = FinetuningSettings(epochs=1, device="cpu")
    folders = [finetune(FinetuningRequest(checkpoint, rows, settings)).folder for _ in range(2)]
    assert folders == [Path("runs/finetune-train"), Path("runs/finetune-train-2")]
