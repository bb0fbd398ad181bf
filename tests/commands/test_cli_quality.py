"""`ufbert bench quality` as a user meets it: runs, results, going on, and one line for each mistake."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pretraining_runs import at_step, interrupt

from ufbert import UltraFastBertForMaskedLM
from ufbert.benchmark.quality import run, widths
from ufbert.benchmark.quality.jobs import Job, Outcome
from ufbert.benchmark.quality.recipe import recipe_text
from ufbert.benchmark.quality.speed import Timing
from ufbert.commands.app import main
from ufbert.pretraining.held_out import HeldOut

RECIPE = """[quality]
tokens = 768
seeds = [1, 2]
variants = ["none", "1x3"]
[speed]
batch = 2
threads = 1
seconds = 0.1
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 16
[data]
sequence_length = 16
min_frequency = 2
cache_dir = "cache"
[training]
batch_size = 8
micro_batch_size = 8
evaluation_sequences = 0
precision = "float32"
device = "cpu"
"""

Quality = Callable[..., tuple[int, str, str]]


class InProcess:
    """Runs the commands of the runs in this process: to start torch anew takes seconds."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []
        self.at_once: list[int] = []
        self.environments: list[Mapping[str, str]] = []

    def __call__(
        self, jobs: Sequence[Job], at_once: int, environment: Mapping[str, str], tell: Callable[[Sequence[str]], None]
    ) -> Outcome:
        outcome = Outcome()
        self.at_once.append(at_once)
        self.environments.append(environment)
        for job in jobs:
            command = list(job.command())
            assert command[1:4] == ["-m", "ufbert", "pretrain"]
            self.commands.append(command[4:])
            with pytest.raises(SystemExit) as end:
                main([*command[3:], "--no-plot"])
            tell([job.name])
            if end.value.code == 130:
                outcome.stopped_by = 2
                break
            if end.value.code:
                outcome.failures[job.name] = "the last line"
        return outcome


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """What was trained, and how."""
    trainer = InProcess()
    monkeypatch.setattr(run, "run_jobs", trainer)
    return trainer


@pytest.fixture
def quality(
    trained: InProcess,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Quality:
    """Run `recipe.toml` in a folder with a corpus; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(RECIPE, encoding="utf-8")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["bench", "quality", "recipe.toml", "--out=out", f"--corpus={corpus.name}", *arguments])
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return call


def results() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Path("out/quality.json").read_text(encoding="utf-8"))
    return values


def state(run: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(Path("out/runs", run, "training/state.json").read_text(encoding="utf-8"))
    return values


def test_every_variant_and_seed_is_trained_measured_and_timed_once(
    quality: Quality, trained: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = quality("--jobs=2", "--threads=2")
    assert code == 0
    assert [command[3] for command in trained.commands] == [
        "out/runs/none/seed-1", "out/runs/1x3/seed-1", "out/runs/none/seed-2", "out/runs/1x3/seed-2",
    ]  # fmt: skip
    assert (trained.at_once, trained.environments[0]["OMP_NUM_THREADS"]) == ([2], "1")
    assert "0 of 4 runs are complete; training 2 at once with 1 thread each" in err
    found = results()
    rows = {row["name"]: row for row in found["variants"]}
    assert [rows["1x3"][key] for key in ("neurons_used", "neurons_available", "tokens")] == [4, 15, 768]
    model = UltraFastBertForMaskedLM.from_pretrained("out/runs/1x3/seed-1")
    assert rows["1x3"]["parameters"] == sum(p.numel() for p in model.parameters())
    fingerprints = set()
    for name, row in rows.items():
        for entry in row["runs"]:
            ended = state(f"{name}/seed-{entry['seed']}")
            fingerprints.add(ended["corpus"])
            # All of the held-out text and the masks of a run's own measurements, so its own loss is the same.
            assert entry["loss"] == pytest.approx(ended["held_out"]["last"], abs=1e-5)
        assert row["loss"] == pytest.approx(sum(entry["loss"] for entry in row["runs"]) / 2)
        assert set(row["speed"]) == {"float32", "int8"}
        assert all(timing["tokens_per_second"] > 0 for timing in row["speed"].values())
    assert len(fingerprints) == 1
    assert rows["none"]["relative_time"] == 1.0
    assert "recipe: 768 tokens, 2 layers of 32" in out
    assert [line.split()[0] for line in out.splitlines()[2:4]] == ["none", "1x3"]
    assert "| none | 0 |" in Path("out/quality.md").read_text()
    assert Path("out/recipe.toml").read_text() == RECIPE

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(HeldOut, "measure", forbidden)
    monkeypatch.setattr(run, "time_encoders", forbidden)
    trained.commands.clear()
    code, _, err = quality("--seconds=0")
    assert (code, trained.commands) == (0, [])
    assert results()["variants"] == found["variants"]
    # Another number of tokens is another benchmark.
    code, _, err = quality("--set=training.tokens=1536")
    assert (code, err.splitlines()[-1]) == (
        1,
        "error: out/runs/none/seed-1: this run has training.tokens = 768, not 1536; resume it without that change, or "
        "start another run with another --out",
    )


def test_only_some_are_trained_and_an_interrupted_run_goes_on(
    quality: Quality, trained: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        at_step(3, interrupt, patched)
        code, _, err = quality("--only=1x3")
    assert (code, err.splitlines()[-1]) == (130, "Stopped; the same command goes on")
    assert [command[-1] for command in trained.commands] == ["out/runs/1x3/seed-1"]
    stopped = state("1x3/seed-1")
    assert (stopped["complete"], stopped["steps"] > 0) == (False, True)
    code, _, err = quality("--no-train")
    assert (code, err.splitlines()[-1]) == (
        1, "error: out: no run of the recipe is complete, so there is nothing to report"
    )  # fmt: skip
    code, out, _ = quality("--only=1x3", "--seconds=0")
    assert code == 0
    assert [command[3:] for command in trained.commands[1:]] == [
        ["out/runs/1x3/seed-1", "--resume"], ["out/runs/1x3/seed-2"],
    ]  # fmt: skip
    assert (state("1x3/seed-1")["complete"], state("1x3/seed-1")["sessions"]) == (True, 2)
    assert "Not complete, with the share of their tokens: none seed 1 (0 %), none seed 2 (0 %)" in out
    assert "Speed: not measured" in out
    assert [row["name"] for row in results()["variants"]] == ["1x3"]
    assert not Path("out/quality.svg").exists()


def test_a_run_that_fails_is_named_at_the_end(quality: Quality, trained: InProcess) -> None:
    Path("out/runs/none/seed-1").mkdir(parents=True)
    Path("out/runs/none/seed-1/other").touch()
    Path("out/recipe.toml").touch()
    code, out, err = quality("--seconds=0")
    assert (code, len(trained.commands)) == (1, 4)
    assert err.splitlines()[-1] == "error: 1 of the runs failed, the others went on: none seed 1: the last line"
    assert [line.split()[5] for line in out.splitlines()[2:4]] == ["1", "2"]
    assert "Not complete, with the share of their tokens: none seed 1 (0 %)" in out


def test_the_width_of_equal_time_is_found_once_and_kept(
    quality: Quality, trained: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("recipe.toml").write_text(RECIPE.replace('"none"', '"dense:time:1x3"').replace("[1, 2]", "[1]"))
    asked: list[dict[str, Path]] = []

    def time_encoders(folders: Mapping[str, Path], *_: Any) -> dict[tuple[str, str], Timing]:
        asked.append(dict(folders))
        widest = {name: float(name) if name != "target" else 43.0 for name in folders}
        return {(name, "float32"): Timing(time, time, time, 3) for name, time in widest.items()}

    monkeypatch.setattr(widths, "time_encoders", time_encoders)
    code, _, err = quality("--seconds=0")
    assert code == 0
    assert "dense:time:1x3: 40 neurons, 40.00 us a token against 43.00 of 1x3" in err
    kept = json.loads(Path("out/widths.json").read_text())["dense:time:1x3"]
    assert [kept[key] for key in ("width", "time_of", "trained", "precision")] == [40, "1x3", False, "float32"]
    rows = {row["name"]: row for row in results()["variants"]}
    assert (rows["dense:time:1x3"]["neurons_used"], rows["dense:time:1x3"]["time_of"]) == (40, "1x3")
    assert [(pair["first"], pair["second"]) for pair in results()["equal_times"]] == [("1x3", "dense:time:1x3")]
    asked.clear()
    assert quality("--seconds=0")[0] == 0
    assert asked == []
    # Once its runs are there, the target is timed as training has left it.
    Path("out/widths.json").unlink()
    Path("recipe.toml").write_text(Path("recipe.toml").read_text().replace("seeds", "# seeds"))
    assert quality("--seconds=0")[0] == 0
    assert {folders["target"] for folders in asked} == {Path("out/runs/1x3/seed-1")}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--only=1x9,none"], "--only 1x9: recipe.toml has no such variant; it has none, 1x3"),
        (["--depth=3"], "--depth belongs to what is timed; bench quality takes --threads, --seconds, --out, --only, "),
        (["--text-column=x"], "--text-column: belongs to bench paths CHECKPOINT FILE...; bench quality takes no such"),
        (["second.toml"], "bench quality takes a recipe and a folder: ufbert bench quality RECIPE --out FOLDER, where"),
        (["--out=corpus.txt"], "corpus.txt: already exists; choose another --out for the benchmark, or remove it"),
        (["--out=busy"], "busy: already exists; choose another --out for the benchmark, or remove it"),
        (["--corpus=none.txt"], "none.txt: no such file"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(
    quality: Quality, trained: InProcess, arguments: list[str], line: str
) -> None:
    Path("busy").mkdir()
    Path("busy/file").touch()
    code, out, err = quality(*arguments)
    assert (code, out, trained.commands) == (1, "", [])
    assert err.splitlines()[-1].startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["layer", "--jobs=2"], "--jobs: belongs to bench quality RECIPE; bench layer takes no such"),
        (["paths", "model", "a.txt", "--no-train"], "--train: belongs to bench quality RECIPE; bench paths takes no"),
        (["quality"], "bench quality takes a recipe and a folder"),
        (["quality", "best", "--out=out"], "best: no such recipe; give a TOML file, or one of quality"),
    ],
)
def test_options_of_quality_are_its_own(arguments: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", *arguments])
    assert end.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {line}")


def test_the_recipe_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "quality", "--show"])
    assert end.value.code == 0
    assert capsys.readouterr().out == recipe_text("quality")


def test_a_run_in_a_process_of_its_own(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.toml").write_text(RECIPE.replace("[1, 2]", "[3]").replace(', "1x3"', ""), encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["bench", "quality", "recipe.toml", "--out=out", f"--corpus={corpus}", "--seconds=0"])
    assert end.value.code == 0
    assert "none seed 3: done" in capsys.readouterr().err
    assert state("none/seed-3")["complete"]
    assert "Trained: " in Path("out/runs/none/seed-3.log").read_text()
