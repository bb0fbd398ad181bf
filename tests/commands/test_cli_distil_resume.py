"""An interrupted `ufbert convert --trees` loses nothing: what is kept, what goes on, and what is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from convert_command import TEXTS, run_convert, write_dense_model, write_documents

from ufbert.conversion.distillation import end_to_end, layer_regression, partial, run

SHAPE = ["--trees", "3", "--depth", "2"]
OPTIONS = [*SHAPE, "--text-column", "body", "--steps", "6", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small corpus, a state kept after each step, and products that do not hang on a second thread."""
    monkeypatch.setattr(run, "SAMPLE_TOKENS", 2000)
    monkeypatch.setattr(run, "timed", lambda *_: None)
    monkeypatch.setattr(partial, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(partial, "LARGEST_SHARE", 1e9)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dense") / "model"
    write_dense_model(folder)
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("corpus") / "texts.jsonl", TEXTS)


def at_step(monkeypatch: pytest.MonkeyPatch, module: Any, number: int, act: Callable[[], None]) -> None:
    """Call `act` as the step `number` of a phase (of the second layer's, counted on) begins."""
    before = module.set_learning_rate
    seen: list[int] = []

    def set_learning_rate(*arguments: object) -> None:
        seen.append(1)
        if len(seen) == number:
            act()
        before(*arguments)

    monkeypatch.setattr(module, "set_learning_rate", set_learning_rate)


def interrupt() -> None:
    raise KeyboardInterrupt


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


@pytest.mark.parametrize("beside", [[], ["--token-rows", "9"]], ids=["trees", "trees beside rows"])
def test_an_interrupted_run_ends_with_the_weights_of_one_never_interrupted(
    beside: list[str], dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*OPTIONS, *beside, "--corpus", str(corpus)]
    code, err = run_convert(capsys, dense, tmp_path / "whole", *options)
    assert code == 0, err
    out, kept = tmp_path / "out", tmp_path / "out.partial"
    phases = [(layer_regression, 3, "layer 0"), (layer_regression, 6, "layer 1"), (end_to_end, 4, "end to end")]
    for turn, (module, number, phase) in enumerate(phases):
        with pytest.MonkeyPatch.context() as patch:
            at_step(patch, module, number, interrupt)
            code, err = run_convert(capsys, dense, out, *options, *(["--resume"] if turn else []))
        assert code == 130, err
        assert f"The work so far is kept in {kept}; continue with the same command and --resume" in err
        journal = json.loads((kept / "journal.json").read_text())
        assert journal["training"]["phase"] == phase
        assert len(list(kept.iterdir())) == len(journal["layers"]) + 2
        assert not out.exists()
    assert journal["training"]["steps"] == 3
    code, err = run_convert(capsys, dense, out, *options, "--resume")
    assert code == 0, err
    assert "2 of 2 layers are regressed, end to end at step 3" in err
    assert "recording inputs" not in err
    assert weights(out) == weights(tmp_path / "whole")
    assert not kept.exists()
    cards = [(folder / "README.md").read_text() for folder in (out, tmp_path / "whole")]
    figures = [[line for line in card.splitlines() if "cosine" in line] for card in cards]
    assert figures[0] == figures[1]
    # And once more, there is nothing to do.
    code, err = run_convert(capsys, dense, out, *options, "--resume")
    assert (code, err) == (0, f"{out}: is complete; nothing to resume\n")


def test_a_killed_run_goes_on(dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    options = [*OPTIONS, "--corpus", str(corpus)]
    code = (
        "import os, signal, sys, torch\n"
        "from ufbert.commands.app import main\n"
        "from ufbert.conversion.distillation import end_to_end, partial, run\n"
        "torch.set_num_threads(1)\n"
        "run.SAMPLE_TOKENS, partial.SECONDS_BETWEEN_SAVES, partial.LARGEST_SHARE = 2000, 0.0, 1e9\n"
        "steps, before = [], end_to_end.set_learning_rate\n"
        "def kill(*arguments):\n"
        "    steps.append(1)\n"
        "    if len(steps) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    before(*arguments)\n"
        "end_to_end.set_learning_rate = kill\n"
        "main(['convert', *sys.argv[1:]])\n"
    )
    command = [sys.executable, "-c", code, str(dense), str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == -signal.SIGKILL, done.stderr
    code_, err = run_convert(capsys, dense, out, *options, "--resume")
    assert code_ == 0, err
    assert "end to end at step 2" in err
    code_, err = run_convert(capsys, dense, tmp_path / "whole", *options)
    assert weights(out) == weights(tmp_path / "whole")


def test_sigterm_keeps_the_work_and_ends_with_143(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "SECONDS_BETWEEN_SAVES", 1e9)  # kept because of the signal alone
    options = [*OPTIONS, "--corpus", str(corpus)]
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, end_to_end, 2, lambda: signal.raise_signal(signal.SIGTERM))
        code, err = run_convert(capsys, dense, tmp_path / "out", *options)
    assert code == 143, err
    assert "Stopping after this step; --resume goes on." in err
    assert json.loads((tmp_path / "out.partial" / "journal.json").read_text())["training"]["steps"] == 2
    assert not (tmp_path / "out").exists()
    code, err = run_convert(capsys, dense, tmp_path / "out", *options, "--resume")
    assert code == 0, err


def test_the_first_ctrl_c_ends_the_training_and_the_second_keeps_where_it_was(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "SECONDS_BETWEEN_SAVES", 1e9)
    options = [*OPTIONS, "--corpus", str(corpus)]

    def ctrl_c() -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, end_to_end, 2, ctrl_c)
        code, err = run_convert(capsys, dense, tmp_path / "early", *options)
        assert code == 0, err
        assert "Ending the training here" in err
        assert (tmp_path / "early" / "model.safetensors").is_file()
        assert not (tmp_path / "early.partial").exists()
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, layer_regression, 8, ctrl_c)  # in the second layer
        patch.setattr(run, "measure", lambda *_: interrupt())
        code, err = run_convert(capsys, dense, tmp_path / "out", *options)
        assert code == 130, err
    journal = json.loads((tmp_path / "out.partial" / "journal.json").read_text())
    assert (len(journal["layers"]), journal["training"]["phase"], journal["training"]["steps"]) == (1, "layer 1", 2)
    code, err = run_convert(capsys, dense, tmp_path / "out", *options, "--resume")
    assert code == 0, err
    assert weights(tmp_path / "out") != weights(tmp_path / "early")


def test_what_is_not_the_same_conversion_is_refused_in_one_line(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kept = tmp_path / "out", tmp_path / "out.partial"
    options = [*OPTIONS, "--corpus", str(corpus)]
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, end_to_end, 2, interrupt)
        assert run_convert(capsys, dense, out, *options)[0] == 130
    write_dense_model(tmp_path / "other", intermediate_size=48)
    other = write_documents(tmp_path / "other.jsonl", TEXTS[:40])
    before = {file.name: file.read_bytes() for file in kept.iterdir()}
    cases: dict[tuple[str | Path, ...], str] = {
        (dense, *options): "holds an interrupted conversion; continue it with the same command and --resume, or delete",
        (dense, *options, "--resume", "--trees", "4"): (
            "was made with options --trees 3 --depth 2, not --trees 4 --depth 2; give the same again, or delete"
        ),
        (dense, *options, "--resume", "--seed", "4"): "was made with seed 0, not 4; give the same again",
        (tmp_path / "other", *options, "--resume"): f"was made from another source, {dense}; give that again",
        (dense, *OPTIONS, "--corpus", str(other), "--resume"): f"was made from another corpus, {corpus}; give that",
    }
    for (source, *rest), message in cases.items():
        code, err = run_convert(capsys, source, out, *rest)
        assert (code, err.count("\n")) == (1, 1), err
        assert f"error: {kept}: {message}" in err
        assert {file.name: file.read_bytes() for file in kept.iterdir() if file.name != "journal.json"} == {
            name: content for name, content in before.items() if name != "journal.json"
        }
    corpus.write_text(corpus.read_text() + '{"body": "One sentence more stands here. And another one."}\n')
    code, err = run_convert(capsys, dense, out, *options, "--resume")
    assert (code, f"error: {kept}: the corpus {corpus} has changed since; bring it back, or delete" in err) == (1, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "--resume continues a distillation; give its --trees, --depth and --corpus too"),
        (["--analyse", "--corpus", "embedded", "--resume"], "--resume: --analyse converts nothing"),
    ],
)
def test_resume_needs_a_distillation(
    options: list[str], message: str, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = run_convert(capsys, dense, tmp_path / "out", *options)
    assert (code, message in err, err.count("\n")) == (1, True, 1), err


def test_two_conversions_do_not_write_one_destination(
    dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with partial.open_partial(tmp_path / "out", {}, resume=False):
        code, err = run_convert(capsys, dense, tmp_path / "out", *OPTIONS, "--corpus", corpus)
        assert (code, err.count("\n")) == (1, 1), err
        assert f"{tmp_path / 'out.partial'}: another conversion is writing it; wait for it, or choose another" in err
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("student", ["--shape none,dense:9", "--drop-layers 0", "--layers 1 --trees 3 --depth 1"])
def test_every_kind_of_student_goes_on(
    student: str, dense: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = [*student.split(), *OPTIONS[len(SHAPE) :], "--corpus", str(corpus)]
    code, err = run_convert(capsys, dense, tmp_path / "whole", *options)
    assert code == 0, err
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, end_to_end, 4, interrupt)
        code, err = run_convert(capsys, dense, tmp_path / "out", *options)
    assert code != 0
    assert not (tmp_path / "out").exists()
    code, err = run_convert(capsys, dense, tmp_path / "out", *options, "--resume")
    assert code == 0, err
    assert "Going on with" in err
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
