"""`ufbert finetune --predict`: file names, label names and row numbers that the GLUE server takes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny_finetuning import predicted, sentences, write_checkpoint, write_glue

from ufbert.commands.app import main
from ufbert.errors import DataError
from ufbert.finetuning.glue_server import SERVER_FILES, ServerSet, _answers, find_test_sets
from ufbert.finetuning.tasks import GLUE

Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    shutil.copytree(checkpoint, tmp_path / "small")
    monkeypatch.chdir(tmp_path)

    def finetune(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(["finetune", "small", "--epochs", "1", "--device", "cpu", *arguments])
        return int(exited.value.code or 0), capsys.readouterr().err

    return finetune


TESTS = [text for text, _ in sentences(5, 7)]

OWN_HEADERS = {
    "cola": ("index\tsentence", "{i}\t{a}"),
    "sst2": ("index\tsentence", "{i}\t{a}"),
    "mrpc": ("index\t#1 ID\t#2 ID\t#1 String\t#2 String", "{i}\t9\t8\t{a}\t{a}"),
    "stsb": ("index\tgenre\tsentence1\tsentence2", "{i}\tnews\t{a}\t{a}"),
    "qqp": ("id\tquestion1\tquestion2", "{i}\t{a}\t{a}"),
    "qnli": ("index\tquestion\tsentence", "{i}\t{a}\t{a}"),
    "rte": ("index\tsentence1\tsentence2", "{i}\t{a}\t{a}"),
    "wnli": ("index\tsentence1\tsentence2", "{i}\t{a}\t{a}"),
    "mnli": ("index\tpromptID\tsentence1\tsentence2", "{i}\t7\t{a}\t{a}"),
}


def write_tests(folder: Path) -> None:
    """GLUE's own test files, with their own columns and a row number of their own, in reverse order."""
    for name, (header, line) in OWN_HEADERS.items():
        lines = [header, *(line.format(i=len(TESTS) - 1 - n, a=text) for n, text in enumerate(TESTS))]
        for split in GLUE[name].validation:
            file = folder / name / f"{split.replace('validation', 'test')}.tsv"
            file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "diagnostic").mkdir()
    shutil.copy(folder / "mnli/test_matched.tsv", folder / "diagnostic/diagnostic.tsv")


def read(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_all_of_glue_is_a_complete_submission(run: Run, tmp_path: Path) -> None:
    write_glue(tmp_path / "glue", *GLUE, rows=8)
    write_tests(tmp_path / "glue")
    asked = ("--task", "glue", "--data", "glue", "--seeds", "1", "--out", "all")
    code, shown = run(*asked, "--predict", "test")
    assert code == 0, shown
    folder = tmp_path / "all/predictions/small/seed-1"
    assert {f.name for f in folder.iterdir()} == {f"{name}.tsv" for name in SERVER_FILES}
    allowed = {
        "RTE": {"entailment", "not_entailment"},
        "QNLI": {"entailment", "not_entailment"},
        **{name: {"entailment", "neutral", "contradiction"} for name in ("MNLI-m", "MNLI-mm", "AX")},
    }
    for name in SERVER_FILES:
        head, *rows = read(folder / f"{name}.tsv")
        assert head == ["index", "prediction"]
        assert [row[0] for row in rows] == ["4", "3", "2", "1", "0"]
        if name == "STS-B":
            assert all(0.0 <= float(row[1]) <= 5.0 for row in rows)
        else:
            assert {row[1] for row in rows} <= allowed.get(name, {"0", "1"}), name
    # They are the saved model's, and are made for runs of an earlier call too, but not again.
    best = predicted(tmp_path / "all/small/rte/seed-1", TESTS, TESTS).argmax(1).tolist()
    assert [row[1] for row in read(folder / "RTE.tsv")[1:]] == [("entailment", "not_entailment")[i] for i in best]
    (folder / "RTE.tsv").unlink()
    code, shown = run(*asked, "--predict", "test")
    assert code == 0, shown
    assert shown.count("5 predictions") == 1
    assert (folder / "RTE.tsv").is_file()


def test_a_file_of_rows_for_one_task(run: Run, tmp_path: Path) -> None:
    write_glue(tmp_path / "glue", "sst2")
    (tmp_path / "new.jsonl").write_text("".join(json.dumps({"sentence": text}) + "\n" for text in TESTS))
    code, shown = run("--task", "sst2", "--data", "glue", "--predict", "new.jsonl", "--out", "out")
    assert code == 0, shown
    best = predicted(tmp_path / "out", TESTS).argmax(1).tolist()
    expected = [["index", "prediction"], *([str(i), str(b)] for i, b in enumerate(best))]
    assert read(tmp_path / "out/predictions/SST-2.tsv") == expected
    assert f"{Path('out/predictions/SST-2.tsv')}: 5 predictions" in shown


def test_a_task_without_test_rows_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    write_glue(tmp_path / "glue", "sst2", "rte")
    code, shown = run("--task", "sst2", "--data", "glue", "--predict", "test", "--out", "out")
    assert code == 1
    assert "glue/sst2: no file of the test split of glue/sst2 there" in shown
    assert shown.count("\n") == 1
    code, shown = run("--task", "glue", "--data", "glue", "--predict", "test", "--out", "out")
    assert code == 1
    assert "no file of the test split of glue/rte there" in shown
    code, shown = run("--task", "glue", "--data", "glue", "--predict", "new.jsonl")
    assert (code, "a file goes with a single task" in shown) == (1, True)
    code, shown = run("--train", "x.csv", "--predict", "test")
    assert (code, "goes with --task; for your own rows: ufbert infer" in shown) == (1, True)
    assert not (tmp_path / "out").exists()


def test_classes_are_told_by_the_servers_numbers_whatever_their_order_here() -> None:
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    assert _answers(GLUE["sst2"], logits, ["positive", "negative"]) == ["1", "0"]
    assert _answers(GLUE["rte"], logits, ["not_entailment", "entailment"]) == ["not_entailment", "entailment"]
    assert _answers(GLUE["wnli"], logits, ["not_entailment", "entailment"]) == ["0", "1"]
    assert _answers(GLUE["stsb"], torch.tensor([[5.3], [-0.2], [2.5]]), []) == ["5.000", "0.000", "2.500"]


def test_an_index_that_comes_twice_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "test.tsv"
    file.write_text("index\tsentence\n3\ta\n3\tb\n")
    with pytest.raises(DataError, match="index 3 comes twice"):
        ServerSet("SST-2", GLUE["sst2"], (file,)).read()


def test_what_a_file_of_mnli_is_called(tmp_path: Path) -> None:
    for name in ("test_mismatched.tsv", "test_matched.tsv", "diagnostic.tsv"):
        (tmp_path / name).write_text("sentence1\tsentence2\na\tb\n")
    names = [find_test_sets(GLUE["mnli"], None, str(file))[0].name for file in sorted(tmp_path.iterdir())]
    assert names == ["AX", "MNLI-m", "MNLI-mm"]
