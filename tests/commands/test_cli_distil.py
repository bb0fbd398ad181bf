"""`ufbert convert --trees` as a user meets it: what it makes, what it says, and where its settings come from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from convert_command import TEXTS, run_convert, write_dense_model, write_documents
from safetensors.torch import load_file

from ufbert import UltraFastBertForMaskedLM
from ufbert.checkpoint.tokenizer import load_tokenizer
from ufbert.conversion import DistillationSettings, load_checkpoint
from ufbert.conversion.distillation import layers, run
from ufbert.conversion.distillation.run import distil
from ufbert.conversion.student import read_student
from ufbert.model.pretrained import read_config


@pytest.fixture(autouse=True)
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus has about 1,000 tokens; to regress on 100,000 of them is to read it a hundred times."""
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 4000)
    monkeypatch.setattr(run, "timed", lambda *_: None)  # test_cli_distil_report.py times


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dense post-norm model with its tokenizer, as `convert` makes of a BERT."""
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


def test_distillation_makes_trees_and_reports(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    options = [
        "--trees",
        6,
        "--depth",
        2,
        "--corpus",
        corpus,
        "--text-column",
        "body",
        "--steps",
        30,
        "--device",
        "cpu",
    ]
    code, err = run_convert(capsys, dense, out, *map(str, options))
    assert code == 0, err
    config = read_config(out)
    assert (config.feedforward, config.trees, config.depth) == ("fff", 6, 2)
    assert config.architectures == ("UltraFastBertForMaskedLM",)
    assert config.provenance["pooling"] == "mean"
    assert load_tokenizer(out).get_vocab_size() == config.vocab_size
    for row in ("layer 0: relative error", "layer 1: relative error", "mean cosine of embeddings", "18 of 42"):
        assert row in err, err
    cosines = next(line for line in err.splitlines() if "mean cosine of embeddings" in line)
    student, control = (float(cell) for cell in cosines.split("│")[-3:-1])
    assert student > control
    card = (out / "README.md").read_text()
    assert f"| {student:.4f} |" in card
    assert "6 tree(s) of depth 2" in card
    assert f"convert {dense} {out} --trees 6 --depth 2 --corpus {corpus} --text-column body --steps 30" in card
    model = UltraFastBertForMaskedLM.from_pretrained(out)
    before = UltraFastBertForMaskedLM.from_pretrained(dense)
    torch.testing.assert_close(model.decoder.weight, before.decoder.weight, atol=0, rtol=0)


def test_shared_neurons_stand_beside_the_trees(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = f"--trees 2 --depth 2 --shared 5 --corpus {corpus} --text-column body --steps 3".split()
    code, err = run_convert(capsys, dense, tmp_path / "out", *options)
    assert code == 0, err
    assert "into 2 trees of depth 2 beside 5 shared neurons" in err
    assert "11 of 19" in err
    config = read_config(tmp_path / "out")
    assert (config.trees, config.depth, config.shared_neurons) == (2, 2, 5)
    assert "--trees 2 --depth 2 --shared 5" in (tmp_path / "out" / "README.md").read_text()
    UltraFastBertForMaskedLM.from_pretrained(tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--shared 8", "--shared 8 without trees to stand beside: give --trees and --depth too"),
        (
            "--trees 2 --depth 1 --shared 9999 --corpus embedded",
            "--trees 2 --depth 1 --shared 9999: the shared neurons are the original's own",
        ),
    ],
)
def test_shared_neurons_that_cannot_be_are_one_line(
    options: str, message: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = run_convert(capsys, dense, tmp_path / "out", *options.split())
    assert (code, err.count("\n")) == (1, 1), err
    assert message in err


def test_the_same_seed_gives_the_same_student(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trees", "4", "--depth", "1", "--corpus", str(corpus), "--text-column", "body", "--steps", "3"]
    states = []
    for name in ("first", "second"):
        assert run_convert(capsys, dense, tmp_path / name, *options)[0] == 0
        states.append(load_file(tmp_path / name / "model.safetensors"))
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], atol=1e-6, rtol=1e-5)


def test_corpora_without_text_are_one_line(dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees = ["--trees", "4", "--depth", "2", "--corpus"]
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("a b\nc\n")
    (tmp_path / "one.txt").write_text("There is only one sentence in it.\n")
    for name, text in (("empty", "no rows"), ("short", "no text of at least"), ("one", "only one piece of text")):
        code, err = run_convert(capsys, dense, tmp_path / "out", *trees, tmp_path / f"{name}.txt")
        assert code == 1, err
        assert text in err
        assert len(err.strip().splitlines()) == 1
    (tmp_path / "rows.csv").write_text("title,body\nx,y\n")
    code, err = run_convert(capsys, dense, tmp_path / "out", *trees, tmp_path / "rows.csv")
    assert code == 1
    assert "text" in err
    assert "title" in err


def test_texts_are_a_list_of_files_whose_names_may_hold_commas(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [tmp_path / f"Austen, Jane - volume {number}.jsonl" for number in range(40)]
    for file in files:
        file.write_text(corpus.read_text())
    options = [word for file in files for word in ("--corpus", str(file))]
    options += ["--trees", "4", "--depth", "1", "--text-column", "body", "--steps", "1", "--max-texts", "500"]
    code, err = run_convert(capsys, dense, tmp_path / "out", *options)
    assert code == 0, err
    both = f"{files[0]},{files[1]}"
    code, err = run_convert(capsys, dense, tmp_path / "other", "--trees", "4", "--depth", "1", "--corpus", both)
    assert code == 1
    assert "several are a list" in err


def test_trees_are_not_made_of_trees(
    tiny_checkpoints: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trees", "2", "--depth", "2", "--corpus", "embedded"]
    code, err = run_convert(capsys, tiny_checkpoints["encoder"], tmp_path / "out", *options)
    assert code == 1
    assert "its feedforward layers are trees already (1 of depth 3)" in err


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--trees", "2", "--depth", "2", "--corpus", "embedded"], "has no feedforward layers that could become trees"),
        (["--to", "dense"], "has no feedforward layers; every BERT-family class of transformers has them"),
    ],
)
def test_nothing_is_made_of_no_feedforward_layers(
    options: list[str], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_dense_model(tmp_path / "none", feedforward="none")
    code, err = run_convert(capsys, tmp_path / "none", tmp_path / "out", *options)
    assert (code, text in err, len(err.strip().splitlines())) == (1, True, 1), err


@pytest.mark.parametrize(("rows", "where"), [(6, "other documents"), (1, "the same documents")])
def test_report_and_card_say_from_which_documents_the_held_out_texts_are(
    rows: int, where: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    share = len(TEXTS) // rows
    documents = [" ".join(TEXTS[i * share : (i + 1) * share]) for i in range(rows)]
    corpus = write_documents(tmp_path / "few.jsonl", documents)
    trees = ("--trees", "2", "--depth", "1", "--corpus", corpus, "--text-column", "body", "--steps", "1")
    code, err = run_convert(capsys, dense, tmp_path / "out", *trees)
    assert code == 0, err
    assert f"more held out, from {where})." in err
    assert f"held-out pieces of text from {where}" in " ".join(err.split())
    assert ("note: too few documents to hold whole ones out" in err) == (rows == 1)
    assert f"held-out texts from {where} |" in (tmp_path / "out" / "README.md").read_text()


def test_settings_come_from_the_files_and_the_command_line_in_turn(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trees = ("--trees", "2", "--depth", "1", "--corpus", corpus)
    Path("ufbert.toml").write_text("[distillation]\nsteps = 2\ntext_column = 'body'\ndevice = 'cpu'\n")
    Path("own.toml").write_text("[distillation]\nsteps = 3\n")
    for steps, options in {
        3: ["--config", "own.toml"],
        4: ["--config", "own.toml", "--steps", "4"],
    }.items():
        code, err = run_convert(capsys, dense, f"out{steps}", *trees, *options)
        assert code == 0, err
        assert f"after {steps} steps" in err
    # A time clears the steps of the files.
    for out, options in {"minutes": ["--minutes", "1e-9"], "budget": ["--budget", "0.0001s"]}.items():
        code, err = run_convert(capsys, dense, out, *trees, *options)
        assert code == 0, err
        assert "after 1 steps" in err


def test_a_long_budget_is_for_the_end_to_end_training(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond so many steps a layer's regression gains nothing; steps that are asked for are done all the same."""
    monkeypatch.setattr(layers, "MOST_STEPS", 2)
    options = ["--dense", "8", "--corpus", str(corpus), "--text-column", "body", "--device", "cpu"]
    code, err = run_convert(capsys, dense, tmp_path / "timed", *options, "--budget", "3s")
    assert code == 0, err
    assert err.count(" after 2 steps; ") == 2
    end_to_end = int(re.search(r"([\d,]+) end-to-end steps", (tmp_path / "timed" / "README.md").read_text())[1])  # type: ignore[index]
    assert end_to_end > 2
    code, err = run_convert(capsys, dense, tmp_path / "counted", *options, "--steps", "3")
    assert code == 0, err
    assert err.count(" after 3 steps") == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps", "2", "--minutes", "1"], "--minutes: distillation.minutes and distillation.steps both say when"),
        (["--minutes", "0"], "--minutes: exactly one of distillation.budget (''), distillation.minutes (0) and distil"),
        (["--budget", "5m", "--minutes", "5"], "--budget: distillation.budget and distillation.minutes both say when"),
        (["--budget", "5m", "--steps", "5"], "--budget: distillation.budget and distillation.steps both say when"),
        (["--budget", "soon"], "--budget: distillation.budget must be a time such as 90s, 20m, 24h or 1h30m, not 'so"),
        (["--budget", "0s"], "--budget: distillation.budget must be a time such as 90s, 20m, 24h or 1h30m, not '0s'"),
        (["--minutes", "-1"], "--minutes: distillation.minutes must be at least 0, not -1.0"),
        (["--batch-size", "0"], "--batch-size: distillation.batch_size must be at least 1, not 0"),
        (["--learning-rate", "0"], "--learning-rate: distillation.learning_rate must be above 0, not 0.0"),
        (["--max-texts", "1"], "--max-texts: distillation.max_texts must be at least 2, not 1"),
        (["--device", "tpu"], "--device: distillation.device must be one of auto, cpu, cuda, not 'tpu'"),
        (["--set", "distillation.step=3"], "--set distillation.step=3: unknown key distillation.step; did you mean"),
        (["--seed", "1", "--set", "distillation.seed=2"], "--seed: --set distillation.seed=2 gives distillation.seed"),
        (["--config", "absent.toml"], "absent.toml: no such file; --config takes a TOML file"),
        (["--config", "wrong.toml"], "wrong.toml:2: distillation.steps must be a whole number, not 'many'"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(
    options: list[str],
    message: str,
    dense: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.toml").write_text("[distillation]\nsteps = 'many'\n")
    trees = ("--trees", "2", "--depth", "1", "--corpus", "embedded")
    code, err = run_convert(capsys, dense, "out", *trees, *options)
    assert (code, err.count("\n")) == (1, 1), err
    assert err.startswith(f"error: {message}")
    assert not Path("out").exists()


def test_distilling_leaves_the_loaded_checkpoint_as_it_was(dense: Path, corpus: Path) -> None:
    loaded = load_checkpoint(dense)
    model = loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    settings = DistillationSettings(minutes=0, steps=2, text_column="body", device="cpu")
    student = read_student(trees=2, depth=1)
    assert student is not None
    distilled = distil(loaded, student, [str(corpus)], settings)
    assert (distilled.model.config.feedforward, distilled.model.config.trees) == ("fff", 2)
    assert any("cosine" in name for name in distilled.figures)
    assert loaded.model is model
    assert model.config.feedforward == "dense"
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
