"""Finetuning end to end on a tiny random model: it learns, saves what it says, and loses nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_finetuning import FAST, predicted, sentences, tiny, weights, write_checkpoint, write_csv, write_rows

from ufbert import (
    UltraFastBertForSequenceClassification,
    UltraFastBertModel,
)
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.errors import CheckpointError
from ufbert.finetuning.request import DataRequest, FinetuningRequest
from ufbert.finetuning.run import finetune
from ufbert.model.pretrained import read_config
from ufbert.settings.sections import FinetuningSettings
from ufbert.text.tokenization import train_tokenizer


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


def test_a_separable_task_is_learned_and_the_saved_model_names_the_classes(
    checkpoint: Path, rows: DataRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    result = finetune(FinetuningRequest(checkpoint, rows, FAST, out, command="ufbert finetune it"))
    kept = result.report.kept
    assert kept is not None
    assert kept.scores[0]["accuracy"] > 0.9
    model = UltraFastBertForSequenceClassification.from_pretrained(out)
    assert model.config.label_names == ["neg", "pos"]
    assert model.config.problem_type == "single_label_classification"
    texts, labels = zip(*sentences(80, 2), strict=True)
    accuracy = float((predicted(out, list(texts)).argmax(1) == torch.tensor(labels)).float().mean())
    assert accuracy == pytest.approx(kept.scores[0]["accuracy"])

    assert sorted(p.name for p in out.iterdir() if p.suffix != ".png") == [
        "README.md",
        "classes.csv",
        "config.json",
        "metrics.jsonl",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    card = (out / "README.md").read_text()
    assert "pipeline_tag: text-classification" in card
    assert f"| accuracy | {accuracy:.4f} (most frequent class: " in card
    assert "ufbert finetune it" in card
    records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert records[0]["baseline"]["validation"]["accuracy"] < 0.7
    epochs = [r for r in records if r["event"] == "epoch"]
    assert [r["epoch"] for r in epochs] == [1, 2, 3, 4]
    assert epochs[-1]["train_loss"] < epochs[0]["train_loss"]
    assert epochs[kept.epoch - 1]["scores"]["validation"]["accuracy"] == pytest.approx(accuracy)
    assert [r["step"] for r in records if r["event"] == "step"] == list(range(1, 61))

    shown = capsys.readouterr()
    assert shown.out == ""
    assert "new head for 2 classes: the checkpoint has none; 60 steps on cpu in float32" in shown.err
    assert f"saved to {out}: epoch {kept.epoch}, the best of 4 by accuracy" in shown.err
    assert "most frequent class" in shown.err


def test_the_same_seed_gives_the_same_weights_and_leaves_torchs_generator_alone(
    checkpoint: Path, rows: DataRequest, tmp_path: Path
) -> None:
    before = torch.get_rng_state()
    settings = FinetuningSettings(epochs=1, learning_rate=3e-3, device="cpu", keep="last")
    for name in "ab":
        finetune(FinetuningRequest(checkpoint, rows, settings, tmp_path / name))
        assert torch.equal(torch.get_rng_state(), before)
        torch.rand(7)
        before = torch.get_rng_state()
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    other = FinetuningSettings(epochs=1, learning_rate=3e-3, device="cpu", keep="last", seed=1)
    finetune(FinetuningRequest(checkpoint, rows, other, tmp_path / "c"))
    assert (tmp_path / "a/model.safetensors").read_bytes() != (tmp_path / "c/model.safetensors").read_bytes()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_regression_learns_labels_of_any_size(checkpoint: Path, tmp_path: Path, precision: str) -> None:
    def write(name: str, seed: int) -> str:
        lines = [f"{text},{-5000.5 if label else -5200.25}" for text, label in sentences(160, seed)]
        (tmp_path / name).write_text("text,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / name)

    request = DataRequest(train=write("train.csv", 1), validation=write("validation.csv", 2))
    settings = FinetuningSettings(epochs=6, learning_rate=1e-2, device="cpu", precision=precision)
    report = finetune(FinetuningRequest(checkpoint, request, settings, tmp_path / "out")).report
    assert report.kept is not None
    assert report.kept.scores[0]["Spearman"] > 0.8
    assert report.kept.scores[0]["RMSE"] < 0.5 * report.baseline[0]["RMSE"]
    assert math.isnan(report.baseline[0]["Pearson"])
    assert "(mean of the training labels: undefined)" in (tmp_path / "out/README.md").read_text()
    first = json.loads((tmp_path / "out/metrics.jsonl").read_text().splitlines()[0])
    assert first["baseline"]["validation"]["Pearson"] is None
    config = read_config(tmp_path / "out")
    assert (config.problem_type, config.num_labels, config.id2label) == ("regression", 1, None)
    # The saved model answers in the labels' own unit.
    low, high = predicted(tmp_path / "out", ["the film was awful", "the film was lovely"])[:, 0].tolist()
    assert abs(low + 5200) < 60
    assert abs(high + 5000) < 60

    # Going on from it keeps its head, so the first epoch is as good as the last was.
    again = FinetuningSettings(epochs=1, learning_rate=1e-6, device="cpu", precision=precision)
    more = finetune(FinetuningRequest(tmp_path / "out", request, again, tmp_path / "more")).report
    assert more.kept is not None
    assert more.kept.scores[0]["RMSE"] == pytest.approx(report.kept.scores[0]["RMSE"], rel=0.05)


def test_pairs_and_token_types_reach_the_model(tmp_path: Path) -> None:
    """The class is the order of two texts, which a bag of words cannot tell."""
    draw = np.random.default_rng(0)
    lines = []
    for _ in range(300):
        label = int(draw.integers(2))
        pair = ("lovely", "awful") if label else ("awful", "lovely")
        lines.append(json.dumps({"a": pair[0], "b": pair[1], "label": label}))
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = train_tokenizer([text for text, _ in sentences(200, 9)], 200, min_frequency=1)
    # Without positions to go by, only the types tell the texts apart.
    model = UltraFastBertModel(tiny(tokenizer.get_vocab_size(), type_vocab_size=2))
    with torch.no_grad():
        model.embeddings.token_type.weight.normal_()
    model.save_pretrained(tmp_path / "base", tokenizer=tokenizer)
    request = DataRequest(train=str(tmp_path / "pairs.jsonl"), text_column="a", pair_column="b")
    report = finetune(FinetuningRequest(tmp_path / "base", request, FAST, tmp_path / "out")).report
    assert report.kept is not None
    assert report.kept.scores[0]["accuracy"] > 0.9
    assert predicted(tmp_path / "out", ["lovely", "awful"], ["awful", "lovely"]).argmax(1).tolist() == [1, 0]
    assert "30 of 300 rows of pairs.jsonl, drawn with seed 0, are held out" in (tmp_path / "out/README.md").read_text()


def test_mnli_is_judged_on_both_validation_sets(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("train", "validation_matched", "validation_mismatched"):
        lines = [
            json.dumps({"premise": text, "hypothesis": "lovely", "label": 2 * label})
            for text, label in sentences(48, len(name))
        ]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = FinetuningSettings(epochs=1, device="cpu")
    report = finetune(
        FinetuningRequest(checkpoint, DataRequest(task="mnli", data=tmp_path), settings, tmp_path / "out")
    ).report
    assert report.kept is not None
    assert list(report.figures(report.kept.scores)) == ["accuracy matched", "accuracy mismatched"]
    assert report.kept.headline == pytest.approx(np.mean([s["accuracy"] for s in report.kept.scores]))
    assert "mean of accuracy over both validation sets" in report.kept_words()
    assert read_config(tmp_path / "out").label_names == ["entailment", "neutral", "contradiction"]


def test_a_classifier_of_the_same_classes_keeps_its_head_in_any_order(
    checkpoint: Path, rows: DataRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetune(FinetuningRequest(checkpoint, rows, FAST, tmp_path / "first"))
    model = UltraFastBertForSequenceClassification.from_pretrained(tmp_path / "first")
    scores = model.classifier.scores
    with torch.no_grad():  # the same function with its classes numbered the other way round
        scores.weight.copy_(scores.weight.flip(0))
        scores.bias.copy_(scores.bias.flip(0))
    model.config = model.config.replace(id2label={0: "pos", 1: "neg"})
    model.save_pretrained(tmp_path / "flipped", tokenizer=load_tokenizer(tmp_path / "first"))
    settings = FinetuningSettings(epochs=1, learning_rate=0.0, device="cpu", precision="float32")
    report = finetune(FinetuningRequest(tmp_path / "flipped", rows, settings, tmp_path / "second")).report
    assert report.kept is not None
    assert report.kept.scores[0]["accuracy"] > 0.9
    assert "goes on with the checkpoint's head for 2 classes" in capsys.readouterr().err
    old, new = weights(tmp_path / "first"), weights(tmp_path / "second")
    assert all(torch.equal(old[name], new[name]) for name in old)

    other = DataRequest(train=str(write_csv(tmp_path / "other.csv", 40, 1, ("down", "up"))))
    finetune(FinetuningRequest(tmp_path / "first", other, settings, tmp_path / "third"))
    assert "new head for 2 classes: the checkpoint's is for neg, pos, not down, up" in capsys.readouterr().err
    assert not torch.equal(weights(tmp_path / "third")["classifier.dense.weight"], old["classifier.dense.weight"])
    first = FinetuningSettings(epochs=1, pooling="first", device="cpu")
    finetune(FinetuningRequest(tmp_path / "first", rows, first, tmp_path / "fourth"))
    assert "new head for 2 classes: the checkpoint's reads the mean, not the first token" in capsys.readouterr().err
    assert read_config(tmp_path / "fourth").classifier_pooling == "first"


def test_checkpoints_that_will_not_do(checkpoint: Path, rows: DataRequest, tmp_path: Path) -> None:
    def error_of(source: Path, **options: Any) -> str:
        with pytest.raises(CheckpointError) as caught:
            finetune(FinetuningRequest(source, rows, FAST, tmp_path / "out", **options))
        assert not (tmp_path / "out").exists()
        return str(caught.value)

    model = UltraFastBertModel(tiny(9))
    model.save_pretrained(tmp_path / "bare")
    assert "bare: has no tokenizer.json, which finetuning needs; put the model's own there, or give --tokenizer" in (
        error_of(tmp_path / "bare")
    )
    assert "the model's vocabulary 9; give the tokenizer that the model was trained with" in error_of(
        tmp_path / "bare", tokenizer=checkpoint
    )
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    assert "is a bert checkpoint, not an ultrafastbert one; run: ufbert convert" in error_of(tmp_path / "bert")


def test_a_base_encoder_and_a_tokenizer_from_elsewhere(checkpoint: Path, rows: DataRequest, tmp_path: Path) -> None:
    vocab_size = load_tokenizer(checkpoint).get_vocab_size()
    UltraFastBertModel(tiny(vocab_size)).save_pretrained(tmp_path / "base")
    settings = FinetuningSettings(epochs=1, device="cpu")
    finetune(
        FinetuningRequest(tmp_path / "base", rows, settings, tmp_path / "out", tokenizer=checkpoint / "tokenizer.json")
    )
    assert (tmp_path / "out/tokenizer.json").is_file()
    assert weights(tmp_path / "out")


def test_long_rows_are_cut_and_counted(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text(f"text,label\n{'film ' * 500},a\nfilm,b\n,a\nfilm,b\n", encoding="utf-8")
    request = DataRequest(train=str(tmp_path / "a.csv"), validation=str(tmp_path / "a.csv"))
    finetune(FinetuningRequest(checkpoint, request, FinetuningSettings(epochs=1, device="cpu"), tmp_path / "out"))
    assert "note: 2 of 8 rows are cut to 24 tokens (the model's limit)" in capsys.readouterr().err
    settings = FinetuningSettings(epochs=1, device="cpu", max_length=10)
    finetune(FinetuningRequest(checkpoint, request, settings, tmp_path / "out2"))
    assert "note: 2 of 8 rows are cut to 10 tokens (finetuning.max_length)" in capsys.readouterr().err
