"""`ufbert pretrain` as a user runs it."""

from __future__ import annotations

import datetime
import errno
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tomli
import torch
import torch.distributed as dist
from pretraining_runs import at_step, interrupt
from safetensors.torch import load_file

from ufbert.commands.app import main
from ufbert.pretraining.metrics import read_metrics
from ufbert.text import corpus

SENTENCES = ("the cat sleeps on the red chair.", "a dog runs to the green tree.", "the bird sings in the blue sky.")
TINY = """
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 2
depth = 3
max_position_embeddings = 16

[data]
corpus = "corpus.txt"
cache_dir = "cache"
sequence_length = 16
min_frequency = 2

[training]
batch_size = 4
micro_batch_size = 4
device = "cpu"
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with a corpus of 200 documents and the configuration of a tiny model."""
    monkeypatch.chdir(tmp_path)
    documents = (" ".join(SENTENCES[(i + j) % 3] for j in range(5)) for i in range(200))
    Path("corpus.txt").write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    Path("tiny.toml").write_text(TINY, encoding="utf-8")
    return tmp_path


def run(*arguments: str) -> int:
    """The exit code of `ufbert pretrain` in this process."""
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", *arguments])
    code = stop.value.code
    assert isinstance(code, int)
    return code


def error_of(capfd: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr; nothing may be on stdout."""
    out, err = capfd.readouterr()
    assert out == ""
    return err.strip().splitlines()[-1]


def test_a_run_saves_where_there_are_no_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    assert run("--config", "tiny.toml", "--steps", "2", "--out", "run", "--no-plot") == 0
    assert (Path("run") / "metrics.jsonl").read_text().count("\n") >= 2
    assert json.loads((Path("run") / "training" / "state.json").read_text())["steps"] == 2


def test_a_run_from_text_to_filled_masks(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--config", "tiny.toml", "--steps", "20", "--plot") == 0
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert any(line.startswith("Training ") and "2 layers of 32, 4 of 15 neurons used" in line for line in lines)
    milestones = [line for line in lines if " tokens/s  learning rate " in line]
    assert len(milestones) == 10
    assert milestones[-1].startswith("100 %  step 20  loss ")
    assert any(line.startswith("Trained: 20 steps, 1,280 tokens") for line in lines)
    assert "Saved: runs/pretrain (checkpoint, metrics.jsonl, loss.png, report.html)" in lines
    assert err.count("[MASK]") == 5
    assert "Traceback" not in err
    assert "Warning" not in err
    assert Path("runs/pretrain/loss.png").is_file()
    assert run("--config", "tiny.toml", "--steps", "1", "--no-plot", "--corpus", "corpus.txt") == 0
    assert Path("runs/pretrain-2/model.safetensors").is_file()
    assert not Path("runs/pretrain-2/loss.png").exists()
    assert main_infers("runs/pretrain") == 1


def test_a_preset_is_trained_and_shown(capfd: pytest.CaptureFixture[str]) -> None:
    Path("ufbert.toml").write_text("[model]\nhidden_size = 32\nnum_labels = 3\n[data]\ncache_dir = 'cache'\n")
    assert run("--preset", "tiny", "--corpus", "corpus.txt", "--steps", "1", "--no-plot", "--out", "run") == 0
    settings = tomli.loads(Path("run/settings.toml").read_text())
    assert settings["training"]["steps"] == 1
    assert [settings["model"][key] for key in ("hidden_size", "depth", "num_labels")] == [64, 4, 3]
    assert main_infers("run") == 1
    assert run("--resume", "--out", "run", "--preset", "tiny", "--steps", "1") == 0  # nothing differs
    capfd.readouterr()
    assert run("--preset", "tiny", "--show") == 0
    out, err = capfd.readouterr()
    assert err == ""
    Path("shown.toml").write_text(out)
    assert tomli.loads(out)["model"]["depth"] == 4
    assert "# " in out
    options = ["--corpus", "corpus.txt", "--steps", "1", "--no-plot", "--out", "again"]
    assert run("--config", "shown.toml", *options) == 0
    assert Path("again/settings.toml").read_text() == Path("run/settings.toml").read_text()


def test_the_crammed_data_settings_and_a_resumed_run(capfd: pytest.CaptureFixture[str]) -> None:
    texts = [" ".join(SENTENCES[(i + j) % 3] for j in range(5)) + f" caf\u00e9 {i}" for i in range(100)]
    Path("corpus.txt").write_text("\n\n".join([*texts, *texts[:7]]) + "\n", encoding="utf-8")
    options = ["--config", "tiny.toml", "--no-plot", "--set", "data.deduplicate=true"]
    options += ["--set", "data.sort_by_likelihood=true", "--set", "data.ascii_only=true"]
    assert run(*options, "--steps", "2", "--out", "run") == 0
    assert "; dropped: 7 documents seen before\n" in capfd.readouterr().err
    settings = tomli.loads(Path("run/settings.toml").read_text())["data"]
    assert [settings[key] for key in ("deduplicate", "sort_by_likelihood", "ascii_only")] == [True] * 3
    state = Path("run/training/state.json")
    state.write_text(json.dumps({**json.loads(state.read_text()), "complete": False}))
    assert run("--resume", "--out", "run", "--set", "data.sort_by_likelihood=false") == 1
    assert "this run has data.sort_by_likelihood = True, not False; resume it without" in error_of(capfd)
    assert run("--resume", "--out", "run", "--no-plot") == 0
    Path("foreign.txt").write_text("the caf\u00e9\u2019s [MASK] \u4e2d\nthe cafes [MASK]\n", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["infer", "run", "foreign.txt", "--output", "filled.jsonl"])
    first, second = map(json.loads, Path("filled.jsonl").read_text(encoding="utf-8").splitlines())
    assert first["masks"] == second["masks"]


def main_infers(checkpoint: str) -> int:
    """Lines of `ufbert infer` on one masked sentence."""
    Path("masked.txt").write_text("the cat [MASK] on the red chair.\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["infer", checkpoint, "masked.txt", "--output", "filled.jsonl"])
    assert stop.value.code == 0
    return len(Path("filled.jsonl").read_text(encoding="utf-8").splitlines())


def test_unquoted_globs_and_named_options(capfd: pytest.CaptureFixture[str]) -> None:
    for name in ("a.txt", "b.txt"):
        Path(name).write_text(Path("corpus.txt").read_text())
    options = ["--tokens", "600", "--seed", "3", "--out", "run", "--validation-corpus", "b.txt", "--no-plot"]
    assert run("--config", "tiny.toml", "--corpus", "a.txt", "corpus.txt", *options) == 0
    state = json.loads(Path("run/training/state.json").read_text())
    assert "settings" not in state
    settings = tomli.loads(Path("run/settings.toml").read_text())
    assert settings["data"]["corpus"] == ["a.txt", "corpus.txt"]
    assert settings["data"]["validation_corpus"] == ["b.txt"]
    assert (settings["training"]["tokens"], settings["training"]["budget"], settings["training"]["seed"]) == (
        600,
        "",
        3,
    )
    assert state["tokens"] == 608
    assert run("--config", "tiny.toml", "--tokens", "600", "--tokenizer", "run", "--out", "other", "--no-plot") == 0
    assert Path("other/tokenizer.json").read_bytes() == Path("run/tokenizer.json").read_bytes()


def test_many_files_and_commas_in_their_names(capfd: pytest.CaptureFixture[str]) -> None:
    names = [f"Austen, Jane - volume {number}.txt" for number in range(40)]
    for name in names:
        Path(name).write_text(Path("corpus.txt").read_text(encoding="utf-8")[: 40 * 70])
    assert run("--config", "tiny.toml", "--steps", "1", "--no-plot", "--out", "run", "--corpus", *names) == 0
    settings = tomli.loads(Path("run/settings.toml").read_text())
    assert settings["data"]["corpus"] == names
    card = Path("run/README.md").read_text()
    assert (
        "the corpus `Austen, Jane - volume 0.txt, Austen, Jane - volume 1.txt, Austen, Jane - volume 2.txt and" in card
    )
    options = ["--steps", "1", "--no-plot", "--out", "again"]
    assert run("--config", "run/settings.toml", *options) == 0
    assert run("--config", "tiny.toml", "--corpus", "corpus.txt,more.txt", "--steps", "1") == 1
    assert error_of(capfd) == (
        "error: corpus.txt,more.txt: no such file or folder; check the path; several are a list, "
        'corpus = ["corpus.txt", "more.txt"], or an option --corpus for each'
    )


def test_a_run_whose_settings_hold_a_string_with_commas_goes_on(capfd: pytest.CaptureFixture[str]) -> None:
    """As runs were written when a corpus of several files was one string."""
    Path("more.txt").write_text(Path("corpus.txt").read_text())
    options = ["--config", "tiny.toml", "--steps", "2", "--no-plot", "--out", "run"]
    assert run(*options, "--corpus", "corpus.txt", "more.txt") == 0
    settings, state = Path("run/settings.toml"), Path("run/training/state.json")
    older = tomli.loads(settings.read_text())
    older["data"] |= {"corpus": "corpus.txt,more.txt", "validation_corpus": ""}
    del older["training"]["tf32"]
    state.write_text(json.dumps(json.loads(state.read_text()) | {"settings": older, "complete": False}))
    settings.unlink()
    capfd.readouterr()
    assert run("--resume", "--out", "run", "--no-plot") == 0
    assert "Resuming run after step 2" in capfd.readouterr().err


def interrupt_when_training(process: subprocess.Popen[str], *signals: signal.Signals) -> str:
    """Send `signals` once the run has its folder and some steps; what the process says after that."""
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Training "):
            break
    deadline = time.monotonic() + 60
    while not Path("runs/pretrain/training/state.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    said = ""
    for number in signals:
        process.send_signal(number)
        said = said or process.stderr.readline()  # that it is stopping
    said += process.stderr.read()
    process.wait(60)
    return said


def test_sigterms_save_say_how_to_go_on_and_exit_with_their_number() -> None:
    arguments = ["pretrain", "--config", "tiny.toml", "--budget", "10m", "--no-plot"]
    with subprocess.Popen(
        [sys.executable, "-m", "ufbert", *arguments],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:
        # Twice, as Slurm and torchrun do.
        rest = interrupt_when_training(process, signal.SIGTERM, signal.SIGTERM)
    assert process.returncode == 143, rest
    check_saved(rest)


def test_ctrl_c_saves_and_exits_with_130(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    at_step(3, interrupt, monkeypatch)
    assert run("--config", "tiny.toml", "--budget", "10m", "--no-plot") == 130
    check_saved(capfd.readouterr().err)


def check_saved(rest: str) -> None:
    """What an ended run says last, and what it leaves."""
    assert rest.splitlines()[-1] == "Continue with: ufbert pretrain --resume --out runs/pretrain"
    assert "saved in runs/pretrain" in rest
    state = json.loads(Path("runs/pretrain/training/state.json").read_text())
    assert not state["complete"]
    assert sorted(p.name for p in Path("runs").iterdir()) == ["pretrain"]


def test_resume_finds_the_last_run_and_names_what_differs(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--config", "tiny.toml", "--steps", "2", "--no-plot") == 0
    assert run("--resume", "--steps", "3") == 1
    assert error_of(capfd) == (
        "error: runs/pretrain: this run has training.steps = 2, not 3; resume it without that change, "
        "or start another run with another --out"
    )
    assert run("--resume", "--set", "inference.top_k=3", "--set", "finetuning.epochs=3") == 0  # no part of the run
    assert "runs/pretrain: this run is complete (2 steps, 128 tokens" in error_of(capfd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--corpus", "absent.txt"], "absent.txt"),
        (["--corpus", "empty.txt"], "empty.txt"),
        (["--config", "absent.toml"], "absent.toml: no such file; --config takes a TOML file"),
        (["--config", "bad.toml"], "bad.toml:2: unknown key model.dept; did you mean depth?"),
        (["--set", "model.depth=deep"], "--set model.depth=deep: model.depth must be a whole number"),
        (["--steps", "3", "--budget", "1h"], "--steps: training.steps and training.budget both say when"),
        (["--budget", "soon"], "--budget: training.budget must be a time such as 90s, 20m, 24h or 1h30m"),
        (["--resume"], "runs/pretrain: no such run to resume; name its folder with --out"),
        (["--resume", "--out", "absent"], "absent: no such folder, so there is no run to resume"),
        (["--out", "full"], "full: already exists; choose another --out for the run, or remove it"),
        (["--out", "corpus.txt/run"], "corpus.txt"),
        (["--tokenizer", "absent"], "absent: no tokenizer there"),
        (["--preset", "crammed"], "--preset crammed: no such preset; known: crammed-1x11, crammed-dense, small, tiny"),
        (["--show"], "--show prints a preset; name it with --preset: crammed-1x11, crammed-dense, small, tiny"),
        (["--preset", "huge", "--show"], "--preset huge: no such preset; known: crammed-1x11, "),
        (["--device", "tpu"], "--device: training.device must be one of auto, cpu, cuda"),
        (["--set", "model.depth=30"], "depth 30 with 1 trees"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("empty.txt").touch()
    Path("bad.toml").write_text("[model]\ndept = 3\n")
    Path("full").mkdir()
    Path("full/file").touch()
    if "--config" not in arguments and "--resume" not in arguments:
        arguments = ["--config", "tiny.toml", *arguments]
    assert run(*arguments) == 1
    line = error_of(capfd)
    assert line.startswith("error: ")
    assert message in line
    assert not Path("runs").exists()
    assert [p.name for p in Path("full").iterdir()] == ["file"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    assert run("--config", "tiny.toml", "--device", "cuda") == 1
    assert error_of(capfd).endswith("use --device cpu, or install a CUDA build") or "use --device cpu" in error_of(
        capfd
    )


def test_a_plot_asked_for_needs_matplotlib(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ufbert.training.figures.can_plot", lambda: False)
    monkeypatch.setattr("ufbert.pretraining.run.can_plot", lambda: False)
    assert run("--config", "tiny.toml", "--steps", "1", "--plot") == 1
    assert error_of(capfd) == (
        "error: drawing the loss curve needs matplotlib; install it with: pip install 'ufbert[plot]'"
    )
    assert run("--config", "tiny.toml", "--steps", "1") == 0
    assert "No loss curve: it needs matplotlib (pip install 'ufbert[plot]')" in capfd.readouterr().err
    assert not Path("runs/pretrain/loss.png").exists()


def with_another_process(monkeypatch: pytest.MonkeyPatch, program: list[str], *arguments: str) -> tuple[list[int], str]:
    """`ufbert pretrain` in the environment that torchrun gives two processes: this one, and another with `program`.

    Their exit codes, and what the other one says.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with monkeypatch.context() as torchrun:
        for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
            torchrun.setenv(name, value)
        second = {**os.environ, "RANK": "1", "LOCAL_RANK": "1", "OMP_NUM_THREADS": "1"}
        torchrun.setenv("RANK", "0")
        torchrun.setenv("LOCAL_RANK", "0")
        command = [sys.executable, *program, "pretrain", *arguments]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=second) as other:
            try:
                code = run(*arguments)
                said = other.communicate(timeout=120)[1]
            finally:
                other.kill()
    return [code, other.returncode], said


# Tokenising, which the first does, takes longer than the members of a process group wait for each other.
GROUP_SECONDS, TOKENISING_SECONDS = 5, 6
IMPATIENT = f"""
import datetime, functools, sys
import torch.distributed as dist
from ufbert.commands.app import main

dist.init_process_group = functools.partial(
    dist.init_process_group, timeout=datetime.timedelta(seconds={GROUP_SECONDS})
)
main(sys.argv[1:])
"""


def test_two_processes_train_one_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The weights come out as those of one process, which can also continue the run."""
    options = ["--config", "tiny.toml", "--no-plot", "--set", "training.batch_size=16"]
    options += ["--set", "training.precision=float32"]
    with monkeypatch.context() as slow:
        join, tokenize = dist.init_process_group, corpus._tokenize

        def slowly(*arguments: Any) -> Any:
            time.sleep(TOKENISING_SECONDS)
            return tokenize(*arguments)

        timeout = datetime.timedelta(seconds=GROUP_SECONDS)
        slow.setattr(dist, "init_process_group", functools.partial(join, timeout=timeout))
        slow.setattr(corpus, "_tokenize", slowly)
        codes, others = with_another_process(slow, ["-c", IMPATIENT], *options, "--steps", "4", "--out", "two")
    said = capfd.readouterr().err
    assert codes == [0, 0], said + others
    assert "Tokenised the corpus" in said
    assert "Trained: 4 steps" in said
    assert others == ""
    assert run(*options, "--steps", "4", "--out", "one") == 0
    from ufbert import UltraFastBertForMaskedLM

    one, two = (dict(UltraFastBertForMaskedLM.from_pretrained(f).named_parameters()) for f in ("one", "two"))
    for name, parameter in one.items():
        torch.testing.assert_close(two[name], parameter, atol=2e-4, rtol=1e-3, msg=name)
    state = json.loads(Path("two/training/state.json").read_text())
    assert state["computed_on"] == {"device": "cpu", "precision": "float32", "processes": 2}
    Path("two/training/state.json").write_text(json.dumps({**state, "complete": False}))
    capfd.readouterr()
    assert run("--resume", "--out", "two", "--no-plot") == 0
    assert (
        "Computed on cpu, float32, 2 processes until now, on cpu, float32, 1 process from here: sums round "
        "differently; the order of the data and its masks stay\n"
    ) in capfd.readouterr().err


def test_a_corpus_that_is_not_there_ends_both_processes_with_a_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", "tiny.toml", "--steps", "2", "--corpus", "absent.txt"]
    codes, others = with_another_process(monkeypatch, ["-m", "ufbert"], *options)
    said = capfd.readouterr().err
    assert codes == [1, 1], said + others
    assert said.startswith("error: absent.txt")
    assert others == "error: another process of this run has failed; its message says why\n"


@pytest.mark.filterwarnings("ignore")  # torch's compiler warns
def test_compiled_layers_give_the_same_losses() -> None:
    options = ["--config", "tiny.toml", "--steps", "3", "--no-plot", "--set", "training.precision=float32"]
    assert run(*options, "--out", "plain") == 0
    assert run(*options, "--out", "compiled", "--set", "training.compile=true") == 0
    torch.compiler.reset()
    plain, compiled = (
        [row["loss"] for row in read_metrics(Path(f, "metrics.jsonl")) if "loss" in row] for f in ("plain", "compiled")
    )
    assert len(plain) == 3
    assert compiled == pytest.approx(plain, rel=1e-4)
    names, expected = (set(load_file(Path(f, "model.safetensors"))) for f in ("compiled", "plain"))
    assert names == expected
    # A compiled graph holds no hooks, so the leaves are counted without it.
    for folder in ("plain", "compiled"):
        measured = [row for row in read_metrics(Path(folder, "metrics.jsonl")) if "held_out_loss" in row]
        assert len(measured) >= 2
        assert all([layer["layer"] for layer in row["tree_health"]] == [0, 1] for row in measured)
