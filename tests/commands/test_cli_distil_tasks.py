"""`ufbert convert --trees` of models with heads: the student learns the original's outputs."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from convert_command import TEXTS, run_convert, write_dense_model, write_documents
from safetensors.torch import load_file

from ufbert import Pipeline, UltraFastBertForSequenceClassification, UltraFastBertForTokenClassification
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.conversion import DistillationSettings
from ufbert.conversion.distillation import run
from ufbert.conversion.distillation.task_texts import read_task_texts
from ufbert.model.pretrained import PretrainedModel, read_config

OPTIONS = ["--trees", "4", "--depth", "2", "--steps", "25", "--batch-size", "16", "--device", "cpu"]
LABELS = {0: "no", 1: "maybe", 2: "yes"}
MODELS: dict[str, tuple[type[PretrainedModel], dict[str, Any]]] = {
    "classifier": (
        UltraFastBertForSequenceClassification,
        {"num_labels": 3, "id2label": LABELS, "problem_type": "single_label_classification"},
    ),
    "several": (
        UltraFastBertForSequenceClassification,
        {"num_labels": 3, "id2label": LABELS, "problem_type": "multi_label_classification"},
    ),
    "regression": (UltraFastBertForSequenceClassification, {"num_labels": 1, "problem_type": "regression"}),
    "cross-encoder": (
        UltraFastBertForSequenceClassification,
        {"num_labels": 1, "score_activation": "sigmoid"},
    ),
    "tagger": (UltraFastBertForTokenClassification, {"num_labels": 3, "id2label": LABELS}),
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 2000)
    monkeypatch.setattr(run, "timed", lambda *_: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A masked LM without anything said of embeddings, and dense models of all heads, random ones."""
    root = tmp_path_factory.mktemp("models")
    write_dense_model(root / "mlm", provenance={})
    tokenizer, config = load_tokenizer(root / "mlm"), read_config(root / "mlm")
    for name, (cls, changes) in MODELS.items():
        torch.manual_seed(3)
        changed = {"provenance": {}, "classifier_hidden_size": 16, "initializer_range": 0.4, **changes}
        model = cls(config.replace(architectures=(), **changed))
        if name == "cross-encoder":  # cut shorter than it could read
            model.take_embedder(dataclasses.replace(model.embedder, max_seq_length=16, tokenizer_length=16))
        model.save_pretrained(root / name, tokenizer=tokenizer)
    return {name: root / name for name in ("mlm", *MODELS)}


def figures(err: str, row: str) -> tuple[str, str]:
    """Student and control of a row of the closing table."""
    line = next(line for line in err.splitlines() if f"│ {row}" in line)
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    return cells[3], cells[4]


def percent(text: str) -> float:
    return float(text.removesuffix(" %")) / 100


def held_out(task: str, corpus: Path, **settings: Any) -> Sequence[Any]:
    """The rows that the command has held out."""
    return read_task_texts(task, [str(corpus)], DistillationSettings(**settings), 32).held_out


def results(folder: Path, texts: Sequence[Any]) -> list[dict[str, Any]]:
    """What `infer` says of them."""
    said: list[Any] = Pipeline(folder, precision="float32", device="cpu")(texts)
    return said


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "texts.jsonl", [*TEXTS, *TEXTS[:5], " "])


@pytest.mark.parametrize(("name", "what"), [("classifier", "same best label"), ("several", "same labels")])
def test_a_classifier_keeps_its_labels(
    name: str, what: str, folders: dict[str, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [*OPTIONS, "--corpus", str(corpus), "--text-column", "body"]
    code, err = run_convert(capsys, folders[name], out, *options)
    assert code == 0, err
    assert "on 76 texts, for the classifier's outputs (20 more held out" in err  # no doubles, no blank row
    student, control = figures(err, what)
    nearer, farther = map(float, figures(err, "mean KL divergence, nats"))
    assert percent(student) >= percent(control)
    assert nearer < farther
    # The same as `infer` gives for these texts.
    texts = held_out("classify", corpus, text_column="body")
    key = "label" if name == "classifier" else "labels"
    theirs, ours = ([result[key] for result in results(folder, texts)] for folder in (folders[name], out))
    assert percent(student) == pytest.approx(np.mean([a == b for a, b in zip(theirs, ours, strict=True)]), abs=1e-4)
    assert f"| {what}, 20 held-out texts from other documents | {student}; " in (out / "README.md").read_text()
    assert f"<td>{what}</td>" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("shape", "shapes"),
    [
        (["--shape", "4x2,dense:16"], ("4x2", "dense:16")),
        (["--shape", "none,2x1+3"], ("none", "2x1+3")),
        (["--layers", "1", "--dense", "16"], ("dense:64", "dense:16")),
        (["--drop-layers", "1"], ()),
    ],
)
def test_a_classifier_with_layers_that_differ_or_fewer(
    shape: list[str],
    shapes: tuple[str, ...],
    folders: dict[str, Path],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    task = [*shape, *OPTIONS[4:], "--task", "classify"]
    code, err = run_convert(capsys, folders["classifier"], out, *task, "--corpus", corpus, "--text-column", "body")
    assert code == 0, err
    config = read_config(out)
    assert (config.num_hidden_layers, config.feedforward_layers) == (2 if shapes else 1, shapes)
    student, control = figures(err, "same best label")
    nearer, farther = map(float, figures(err, "mean KL divergence, nats"))
    assert percent(student) >= percent(control)
    assert nearer < farther
    # The head is the original's, and `infer` gives what was measured.
    before, after = (load_file(folder / "model.safetensors") for folder in (folders["classifier"], out))
    head = [name for name in before if name.startswith("classifier.")]
    assert head
    assert all(torch.equal(before[name], after[name]) for name in head)
    texts = held_out("classify", corpus, text_column="body")
    theirs, ours = ([result["label"] for result in results(folder, texts)] for folder in (folders["classifier"], out))
    assert percent(student) == pytest.approx(np.mean([a == b for a, b in zip(theirs, ours, strict=True)]), abs=1e-4)


def test_values_of_a_regression(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    code, err = run_convert(capsys, folders["regression"], out, *OPTIONS, "--corpus", corpus, "--text-column", "body")
    assert code == 0, err
    student, control = map(float, figures(err, "mean squared error"))
    assert student < control
    texts = held_out("classify", corpus, text_column="body")
    theirs, ours = (
        np.array([result["value"] for result in results(folder, texts)]) for folder in (folders["regression"], out)
    )
    assert student == pytest.approx(float(np.square(theirs - ours).mean()), abs=1e-4)
    relative = float(figures(err, "relative error of values")[0])
    assert relative == pytest.approx((np.square(theirs - ours).mean() / theirs.var()) ** 0.5, rel=0.02)


def test_pairs_of_a_cross_encoder_are_read_as_infer_reads_them(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = tmp_path / "pairs.csv"
    with pairs.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("question", "answer"))
        writer.writerows((f"{TEXTS[-i]} {TEXTS[i]} {TEXTS[i]}", TEXTS[i]) for i in range(len(TEXTS)))
    out = tmp_path / "out"
    columns = ["--text-column", "question", "--pair-column", "answer"]
    code, err = run_convert(capsys, folders["cross-encoder"], out, *OPTIONS, "--corpus", pairs, *columns)
    assert code == 0, err
    student, _ = figures(err, "same labels")
    rows = held_out("classify", pairs, text_column="question", pair_column="answer")
    theirs, ours = (
        np.array([result["score"] for result in results(folder, rows)]) for folder in (folders["cross-encoder"], out)
    )
    assert percent(student) == pytest.approx(float(np.mean((theirs > 0.5) == (ours > 0.5))), abs=1e-4)
    kl = theirs * np.log(theirs / ours) + (1 - theirs) * np.log((1 - theirs) / (1 - ours))
    nearer, farther = map(float, figures(err, "mean KL divergence, nats"))
    assert nearer == pytest.approx(float(kl.mean()), abs=2e-4)
    assert nearer < farther


def test_tags_and_masks(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, row in {
        "tagger": "same best tag",
        "mlm": "same best token",
    }.items():
        options = [*OPTIONS, "--corpus", str(corpus), "--text-column", "body"]
        code, err = run_convert(capsys, folders[name], tmp_path / name, *options)
        assert code == 0, err
        student, control = figures(err, row)
        nearer, farther = map(float, figures(err, "mean KL divergence, nats"))
        assert percent(student) > percent(control)
        assert nearer < farther


def test_embeddings_alone_on_demand_and_for_a_sentence_embedder(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dense_model(tmp_path / "embedder")  # a masked LM whose folder says how to pool
    for source, extra in {tmp_path / "embedder": [], folders["classifier"]: ["--task", "embed"]}.items():
        options = [*OPTIONS, "--corpus", str(corpus), "--text-column", "body", "--steps", "2", *extra]
        code, err = run_convert(capsys, source, tmp_path / f"out-{source.name}", *options)
        assert code == 0, err
        assert "cosine of embeddings" in err
        assert "KL" not in err


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tagger", ["--task", "classify"], "--task classify: {source} has no head for it; give tag or embed"),
        ("tagger", ["--pair-column", "body"], "--pair-column body: the task tag takes single texts; leave it out"),
        ("mlm", ["--task", "nothing"], "--task: distillation.task must be one of auto, embed, classify, tag, mlm"),
        ("classifier", ["--pair-column", "other"], "no column 'other'; it has: body"),
        (
            "classifier",
            ["--pair-column", "other", "--corpus", "embedded"],
            "--pair-column other: the pairs must stand in files with columns",
        ),
    ],
)
def test_what_does_not_fit_the_head_is_one_line(
    name: str,
    options: list[str],
    message: str,
    folders: dict[str, Path],
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = [] if "--corpus" in options else ["--corpus", str(corpus)]
    code, err = run_convert(
        capsys, folders[name], tmp_path / "out", *OPTIONS, *texts, "--text-column", "body", *options
    )
    assert (code, err.count("\n")) == (1, 1), err
    assert message.format(source=folders[name]) in err


def test_masks_are_the_same_in_a_resumed_run(
    folders: dict[str, Path], corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end_to_end: Any = importlib.import_module("ufbert.conversion.distillation.end_to_end")
    options = [*OPTIONS, "--corpus", str(corpus), "--text-column", "body", "--steps", "5"]
    assert run_convert(capsys, folders["mlm"], tmp_path / "whole", *options)[0] == 0
    steps: list[int] = []
    before = end_to_end.set_learning_rate

    def stop_at_third(*arguments: Any) -> None:
        steps.append(1)
        if len(steps) == 3:
            raise KeyboardInterrupt
        before(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ufbert.conversion.distillation.partial.SECONDS_BETWEEN_SAVES", 0.0)
        patch.setattr("ufbert.conversion.distillation.partial.LARGEST_SHARE", 1e9)
        patch.setattr(end_to_end, "set_learning_rate", stop_at_third)
        assert run_convert(capsys, folders["mlm"], tmp_path / "out", *options)[0] == 130
    journal = json.loads((tmp_path / "out.partial" / "journal.json").read_text())
    assert journal["training"]["steps"] == 2
    assert set(journal["training"]["curve"]["points"][0]) == {"seconds", "step", "hidden", "head"}
    assert run_convert(capsys, folders["mlm"], tmp_path / "out", *options, "--resume")[0] == 0
    whole, resumed = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "out"))
    assert whole == resumed
