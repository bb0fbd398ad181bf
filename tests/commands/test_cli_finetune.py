"""`ufbert finetune` as a user meets it: what it prints, its exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM, UltraFastBertForSequenceClassification
from ufbert.commands.app import main
from ufbert.finetuning.report import FinetuningDisplay
from ufbert.model.pretrained import read_config
from ufbert.text.tokenization import train_tokenizer

ROWS = [("a lovely film", "pos"), ("an awful film", "neg"), ("lovely and short", "pos"), ("awful and long", "neg")]

Finetune = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny pretrained model that has learned nothing."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = train_tokenizer([text for text, _ in ROWS] * 10, 100, min_frequency=1)
    config = UltraFastBertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        depth=3,
        classifier_hidden_size=32,
    )
    UltraFastBertForMaskedLM(config).save_pretrained(folder, tokenizer=tokenizer)
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> Path:
    """A working directory with `tiny`, `train.csv` and `validation.csv`."""
    shutil.copytree(model_folder, tmp_path / "tiny")
    for name, times in (("train", 30), ("validation", 5)):
        write(tmp_path / f"{name}.csv", [f"{text},{label}" for text, label in ROWS] * times)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: Path, rows: list[str], header: str = "text,label") -> None:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")


@pytest.fixture
def run(here: Path, capsys: pytest.CaptureFixture[str]) -> Finetune:
    """Run `ufbert finetune tiny ...` and return its exit code and what it wrote to stderr; stdout stays empty."""

    def finetune(*arguments: str, checkpoint: str = "tiny") -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(["finetune", checkpoint, *arguments])
        shown = capsys.readouterr()
        assert shown.out == ""
        return int(exited.value.code or 0), shown.err

    return finetune


FILES = ("--train", "train.csv", "--validation", "validation.csv")


def test_own_files_from_end_to_end(run: Finetune, here: Path) -> None:
    code, shown = run(
        *FILES, "--out", "out", "--epochs", "3", "--learning-rate", "0.01", "--batch-size", "8", "--device", "cpu"
    )
    assert code == 0, shown
    lines = shown.splitlines()
    assert lines[0] == "train: 120 training rows of train.csv, validation 20 of validation.csv; classes neg, pos"
    assert lines[1].startswith("tiny: new head for 2 classes: the checkpoint has none; 45 steps on cpu in ")
    assert [line.split("  ")[0] for line in lines[2:5]] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert "baseline: most frequent class" in shown
    assert "…" not in shown  # the table fits into 80 columns
    assert "saved to out: epoch " in shown
    assert "accuracy 1.0000 (most frequent class: 0.5000)" in shown
    assert UltraFastBertForSequenceClassification.from_pretrained("out").config.label_names == ["neg", "pos"]
    card = (here / "out/README.md").read_text()
    assert "ufbert finetune tiny --train train.csv --validation validation.csv" in card
    assert "--learning-rate 0.01" in card


def test_a_preset_over_the_folders_file_and_under_the_options(run: Finetune, here: Path) -> None:
    (here / "ufbert.toml").write_text("[finetuning]\nepochs = 1\nseed = 5\n")
    code, shown = run(*FILES, "--out", "out", "--preset", "tiny", "--batch-size", "60", "--device", "cpu")
    assert code == 0, shown
    rows = [json.loads(line) for line in (here / "out" / "metrics.jsonl").read_text().splitlines()]
    assert max(row["epoch"] for row in rows if "epoch" in row) == 2
    assert max(row["step"] for row in rows if "step" in row) == 4  # 120 rows in batches of 60
    code, shown = run(*FILES, "--preset", "tinny")
    assert (code, shown) == (
        1,
        "error: --preset tinny: no such preset; known: crammed-1x11, crammed-dense, small, tiny\n",
    )


def test_a_glue_folder_and_the_default_place(run: Finetune, here: Path) -> None:
    (here / "glue/SST-2").mkdir(parents=True)
    for name in ("train", "dev"):
        rows = [f"{text}\t{int(label == 'pos')}" for text, label in ROWS] * 4
        write(here / f"glue/SST-2/{name}.tsv", rows, "sentence\tlabel")
    code, shown = run("--task", "glue/sst2", "--data", "glue", "--set", "finetuning.epochs=1", "--max-train-rows", "8")
    assert code == 0, shown
    assert "glue/sst2: 8 training rows of train.tsv, validation 16 of dev.tsv; classes negative, positive" in shown
    assert "note: train: 8 of 16 rows, drawn with seed 0" in shown
    assert "saved to runs/finetune-sst2: epoch 1, the best of 1 by accuracy" in shown
    assert read_config(here / "runs/finetune-sst2").label_names == ["negative", "positive"]


def test_regression_by_flag_and_settings_from_a_file(run: Finetune, here: Path) -> None:
    write(here / "r.csv", [f"{text},{3 if label == 'pos' else 1}" for text, label in ROWS] * 10)
    (here / "my.toml").write_text("[finetuning]\nepochs = 2\nkeep = 'last'\n")
    code, shown = run("--train", "r.csv", "--regression", "--config", "my.toml", "--out", "out")
    assert code == 0, shown
    assert "note: 4 of 40 rows of r.csv, drawn with seed 0, are held out for validation" in shown
    assert "epoch 2, the last" in shown
    assert read_config(here / "out").problem_type == "regression"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --task glue/NAME or --train FILE to say what to finetune on"),
        (("--task", "glue/boolq"), "unknown task 'glue/boolq'; known: glue/cola, glue/sst2, glue/mrpc, glue/stsb, "),
        (
            ("--task", "rte", "--data", "nowhere"),
            "nowhere: no such folder; --data takes the folder of the task's files",
        ),
        (("--task", "rte", "--data", "tiny"), "tiny: no file of the train split of glue/rte there (such as "),
        (("--train", "train.csv", "--revision", "v1"), "tiny: is a folder here, which has no revisions; leave out"),
        (("--train", "none.csv"), "none.csv: no such file or folder; check the path"),
        (("--train", "empty.csv"), "empty.csv: no rows in it"),
        (("--train", "header.csv"), "header.csv: no rows in it"),
        (("--train", "train.csv", "--text-column", "body"), "train.csv:1: no column 'body'; it has: text, label"),
        (("--train", "train.csv", "--validation", "other.csv"), "other.csv:1: no column 'label'; it has: text, stars"),
        (
            ("--train", "latin.csv"),
            "latin.csv:3: byte 0xe9 at position 4 is not UTF-8; give the file's encoding, such as --encoding cp1252",
        ),
        (("--train", "short.csv"), "short.csv:3: 1 comma-separated fields, but the file has 2 columns"),
        (("--train", "broken.jsonl"), "broken.jsonl:2: not valid JSON"),
        (("--train", "train.csv", "--regression"), "train.csv:2: label 'pos' is not a finite number, as regression"),
        (
            ("--train", "train.csv", "--validation", "more.csv"),
            "more.csv:3: label 'mixed' is not among the training classes (neg, pos); mend or remove the row",
        ),
        (
            ("--train", "same.csv"),
            "same.csv: all 5 training rows are of class 'pos'; classification needs at least two",
        ),
        (("--train", "train.csv", "--label-column", "text"), "column 'text' cannot be two of text"),
        ((*FILES, "--out", "tiny"), "tiny: already exists; choose another --out for the finetuned model, or remove it"),
        ((*FILES, "--out", "train.csv/x"), "train.csv is a file, not a folder; choose another --out"),
        ((*FILES, "--set", "finetuning.epoch=3"), "unknown key finetuning.epoch; did you mean epochs?"),
        ((*FILES, "--epochs", "0"), "epochs must be at least 1, not 0"),
        ((*FILES, "--keep", "both"), "keep must be one of best, last, not 'both'"),
        ((*FILES, "--config", "no.toml"), "no.toml: no such file; --config takes a TOML file"),
        ((*FILES, "--tokenizer", "train.csv"), "train.csv: not a tokenizer.json"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    run: Finetune, here: Path, arguments: tuple[str, ...], message: str
) -> None:
    (here / "empty.csv").write_text("")
    write(here / "header.csv", [])
    write(here / "other.csv", ["a,5"], "text,stars")
    (here / "latin.csv").write_bytes(b"text,label\na,b\ncaf\xe9,c\n")
    write(here / "short.csv", ["a,b", "a"])
    write(here / "broken.jsonl", ['{"text": "a"'], json.dumps({"text": "a", "label": 1}))
    write(here / "more.csv", ["a,pos", "b,mixed"])
    write(here / "same.csv", ["a,pos"] * 6)
    before = sorted(here.rglob("*"))
    code, shown = run(*arguments)
    assert code == 1
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert message in shown
    assert sorted(here.rglob("*")) == before


def test_checkpoints_that_will_not_do(run: Finetune, here: Path) -> None:
    (here / "tiny/tokenizer.json").unlink()
    assert run(*FILES) == (
        1,
        "error: tiny: has no tokenizer.json, which finetuning needs; put the model's own there, or give --tokenizer\n",
    )
    assert run(*FILES, checkpoint="./absent") == (1, "error: ./absent: no such folder\n")
    (here / "tiny/model.safetensors").write_bytes(b"nonsense")
    code, shown = run(*FILES, "--tokenizer", "tiny", checkpoint="train.csv")
    assert (code, shown) == (1, "error: train.csv: is a file; give the checkpoint's folder\n")


def test_no_gpu_is_one_line(run: Finetune) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has one")
    code, shown = run(*FILES, "--device", "cuda")
    assert code == 1
    assert shown.startswith("error: no CUDA")
    assert "--device cpu" in shown
    assert shown.count("\n") == 1


def test_a_folder_without_permission(run: Finetune, here: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (here / "locked").mkdir(mode=0o500)
    code, shown = run(*FILES, "--out", "locked/out")
    assert (code, shown.count("\n")) == (1, 1)
    assert "no permission to write into" in shown


def test_ctrl_c_keeps_the_best_epoch_and_exits_with_130(
    here: Path, run: Finetune, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: FinetuningDisplay, epoch: int, step: int, loss: float, speed: float) -> None:
        if epoch == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(FinetuningDisplay, "step", step)
    code, rest = run(*FILES, "--out", "out", "--epochs", "100000")
    assert code == 130
    assert "epoch 2/" in rest
    assert "interrupted at step " in rest
    assert "; saved to out: epoch " in rest
    assert "Traceback" not in rest
    assert UltraFastBertForSequenceClassification.from_pretrained("out").config.label_names == ["neg", "pos"]
    assert sorted(p.name for p in here.iterdir()) == ["out", "tiny", "train.csv", "validation.csv"]
