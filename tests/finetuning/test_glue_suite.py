"""`ufbert finetune --task glue`: all runs, the table over them, and going on where a call ended."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_finetuning import weights, write_checkpoint, write_glue

from ufbert.commands.app import main
from ufbert.errors import ConfigError
from ufbert.finetuning.glue_table import GlueRun, GlueTable
from ufbert.finetuning.report import FinetuningDisplay
from ufbert.finetuning.request import DataRequest, GlueRequest, parse_seeds
from ufbert.finetuning.tasks import GLUE

Run = Callable[..., tuple[int, str]]
FAST = ("--epochs", "1", "--device", "cpu", "--set", "finetuning.precision=float32")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "small"
    write_checkpoint(folder)
    return folder


@pytest.fixture
def run(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """`ufbert finetune ...` in a folder with the checkpoints `small` and `other`; exit code and stderr."""
    for name in ("small", "other"):
        shutil.copytree(checkpoint, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def finetune(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exited:
            main(["finetune", *arguments])
        shown = capsys.readouterr()
        assert shown.out == ""
        return int(exited.value.code or 0), shown.err

    return finetune


def test_several_checkpoints_tasks_and_seeds_from_end_to_end(run: Run, tmp_path: Path) -> None:
    write_glue(tmp_path / "glue", "rte", "cola", "stsb", "mrpc", "mnli", "wnli")
    asked = ("small", "other", "--task", "glue", "--data", "glue", "--seeds", "1,2", "--relative-to", "small", *FAST)
    code, shown = run(*asked, "--out", "all")
    assert code == 0, shown
    assert "24 runs in all: 2 checkpoints, 6 tasks (cola, mrpc, stsb, rte, wnli, mnli), 2 seeds" in shown
    assert " s a step, " in shown
    assert "not in the data, so in no average: sst2, qnli, qqp" in shown
    assert "WNLI is left out of the averages" in shown
    markdown = (tmp_path / "all/glue.md").read_text()
    assert "| task | metric | train rows | val. rows | majority | small | other | other / small |" in markdown
    assert "| average | 5 of 8 tasks |" in markdown
    assert "| average without CoLA | 4 of 7 tasks |" in markdown
    assert " ± " in markdown
    rows = list(csv.DictReader((tmp_path / "all/glue.csv").read_text().splitlines()))
    by_name = {(r["checkpoint"], r["task"], r["metric"]): r for r in rows}
    scored = {(t, m) for (_, t, m), r in by_name.items() if r["in_average"] == "true"}
    assert scored == {
        ("RTE", "accuracy"),
        ("MRPC", "F1"),
        ("STS-B", "Pearson"),
        ("MNLI", "accuracy matched"),
        ("MNLI", "accuracy mismatched"),
        ("CoLA", "Matthews"),
    }
    assert {r["train_rows"] for r in rows} == {"24", ""}
    # Both are the same checkpoint, so one keeps all of what the other has wherever that is above zero.
    shares = {float(r["share"]) for r in rows if r["share"]}
    assert shares == {1.0}
    values = json.loads((tmp_path / "all/glue.json").read_text())
    assert [row["task"] for row in values["rows"]][:2] == ["RTE", "MRPC"]
    assert len(values["runs"]) == 24
    assert values["runs"][0]["validation_rows"] == {"validation": 24}
    assert values["runs"][0]["step_seconds"] > 0


def test_a_second_call_skips_what_is_complete_and_gives_the_same_weights(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_glue(tmp_path / "glue", "rte", "sst2")
    asked = ("small", "--task", "glue", "--data", "glue", "--seeds", "3,4", *FAST)
    assert run(*asked, "--out", "whole")[0] == 0

    calls = []
    step = FinetuningDisplay.step

    def interrupt(self: FinetuningDisplay, epoch: int, number: int, loss: float, speed: float) -> None:
        calls.append(number)
        if len(calls) == 3:  # in the second of four runs
            raise KeyboardInterrupt
        step(self, epoch, number, loss, speed)

    monkeypatch.setattr(FinetuningDisplay, "step", interrupt)
    code, shown = run(*asked, "--out", "broken")
    assert code == 130, shown
    assert "run 2 of 4: small, sst2, seed 4" in shown
    monkeypatch.setattr(FinetuningDisplay, "step", step)
    code, shown = run(*asked, "--out", "broken")
    assert code == 0, shown
    assert "1 run of 4 were complete in broken" in shown
    assert "run 1 of 4" not in shown
    assert "run 2 of 4: small, sst2, seed 4" in shown
    for task in ("rte", "sst2"):
        for seed in (3, 4):
            place = f"small/{task}/seed-{seed}/model.safetensors"
            assert (tmp_path / "whole" / place).read_bytes() == (tmp_path / "broken" / place).read_bytes()
    assert weights(tmp_path / "whole/small/rte/seed-3")
    code, shown = run(*asked, "--out", "broken")
    assert code == 0, shown
    assert "4 runs of 4 were complete in broken and were not repeated" in shown


def test_another_call_with_other_settings_is_refused(run: Run, tmp_path: Path) -> None:
    write_glue(tmp_path / "glue", "sst2")
    asked = ("--task", "glue", "--data", "glue", "--out", "all")
    assert run("small", *asked, *FAST)[0] == 0
    code, shown = run("small", *asked, *FAST, "--learning-rate", "0.5", "--max-train-rows", "8")
    assert code == 1
    assert shown == (
        "error: all: its runs have finetuning.learning_rate 4e-05, not 0.5; --max-train-rows None, not 8; "
        "ask for the same, or choose another --out\n"
    )
    # More checkpoints and seeds are more runs of the same kind.
    code, shown = run("small", "other", *asked, *FAST, "--seeds", "0,1")
    assert code == 0, shown
    assert "1 run of 4 were complete" in shown
    (tmp_path / "small/config.json").write_text((tmp_path / "small/config.json").read_text() + "\n")
    code, shown = run("small", *asked, *FAST)
    assert code == 1
    assert "all: its runs have a checkpoint small of other files; ask for the same" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("small", "other", "--task", "rte"), "2 checkpoints are compared with --task glue"),
        (("small", "--task", "rte", "--seeds", "1"), "--seeds goes with --task glue; a single run has --seed"),
        (("small", "--task", "rte", "--relative-to", "small"), "--relative-to goes with --task glue"),
        (("small", "--task", "glue", "--seeds", "1,x"), "--seeds takes different whole numbers from 0 with commas"),
        (("small", "--task", "glue", "--seeds", "1,1"), "--seeds takes different whole numbers from 0 with commas"),
        (("small", "--task", "glue", "--seeds", "1", "--seed", "2"), "give --seed or --seeds, not both"),
        (("small", "--task", "glue", "--relative-to", "big"), "--relative-to big: is none of the checkpoints given"),
        (("small", "small", "--task", "glue"), "two checkpoints are called "),
        (("small", "--task", "glue", "--data", "none"), "none: no such folder; --data takes the folder of the tasks'"),
        (("small", "--task", "glue", "--data", "other"), "other: no task's folder in it; --task glue takes a folder"),
        (("small", "--task", "glue", "--regression"), "--regression goes with --train; a GLUE task has its own"),
        (
            ("small", "--task", "glue", "--data", "glue", "--out", "other"),
            "other: already exists; choose another --out",
        ),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    write_glue(tmp_path / "glue", "sst2")
    before = sorted(tmp_path.rglob("*"))
    code, shown = run(*arguments)
    assert code == 1
    assert message in shown
    assert shown.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def of(task: str, label: str, seed: int, *figures: float, baseline: float = 0.5) -> GlueRun:
    """A run whose validation sets have these figures in the order of the official metrics."""
    sets = GLUE[task].validation
    metrics = GLUE[task].measure.official
    given = iter(figures)
    scores = {s: {m: next(given) for m in metrics} for s in sets}
    majority = {s: dict.fromkeys(metrics, baseline) for s in sets}
    return GlueRun(label, task, seed, scores, majority, 10, dict.fromkeys(sets, 5), 0.1, 1.0)


def test_the_averages_are_those_of_the_papers_table() -> None:
    runs = [
        of("cola", "a", 1, 0.3, baseline=0.0),
        of("mrpc", "a", 1, 0.8, 0.1),  # F1 counts
        of("stsb", "a", 1, 0.6, 0.1, baseline=math.nan),  # Pearson counts
        of("mnli", "a", 1, 0.5, 0.7),
        of("wnli", "a", 1, 0.0),
    ]
    runs = [GlueRun(**{**run.__dict__, "validation_rows": dict.fromkeys(GLUE[run.task].validation, 5)}) for run in runs]
    table = GlueTable(tuple(runs), ("a",), tuple(GLUE[n] for n in ("cola", "mrpc", "stsb", "mnli", "wnli")), (1,))
    rows = {row.task: row for row in table.rows()}
    assert rows["average"].values["a"] == [pytest.approx((0.3 + 0.8 + 0.6 + 0.6) / 4)]
    assert rows["average without CoLA"].values["a"] == [pytest.approx((0.8 + 0.6 + 0.6) / 3)]
    assert rows["average"].baseline == pytest.approx((0.0 + 0.5 + 0.0 + 0.5) / 4)
    assert table.cells(rows["CoLA"]) == ["CoLA", "Matthews *", "10", "5", "0.0", "30.0"]


def test_checkpoints_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    request = GlueRequest((str(tmp_path / "x/model"), "org/model", "last"), DataRequest(task="glue"))
    assert request.labels == ("x-model", "org-model", "last")
    assert request.label_of("org/model") == "org-model"
    with pytest.raises(ConfigError, match="is none of the checkpoints given"):
        request.label_of("first")
    assert parse_seeds("1, 2,3") == (1, 2, 3)


def test_real_rows_of_two_tasks(run: Run, tmp_path: Path, shared_data: Path) -> None:
    (tmp_path / "glue").mkdir()
    for task in ("rte", "stsb"):
        (tmp_path / "glue" / task).symlink_to(shared_data / "glue" / task)
    limits = ("--max-train-rows", "32", "--max-validation-rows", "16")
    code, shown = run("small", "--task", "glue", "--data", "glue", "--out", "all", *limits, *FAST)
    assert code == 0, shown
    markdown = (tmp_path / "all/glue.md").read_text()
    assert "| RTE | accuracy \\* | 32 | 16 |" in markdown
    assert "| average | 2 of 8 tasks |" in markdown
    assert "average without CoLA" not in markdown  # it would be the same
