"""Pretraining: what a run writes, and that an interrupted one goes on as if it had not been."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from pretraining_runs import at_step, interrupt, weights
from safetensors import SafetensorError
from safetensors.torch import save_file

from ufbert import UltraFastBertForMaskedLM
from ufbert.errors import BackendError, CheckpointError, ConfigError, OutputError
from ufbert.model.pretrained import read_config
from ufbert.pretraining import state as training_state
from ufbert.pretraining.fit import NON_FINITE_STEPS
from ufbert.pretraining.loss_curve import draw_loss_curve
from ufbert.pretraining.metrics import MetricsLog, keep_until, read_metrics
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan, plan_run
from ufbert.settings.toml import load_settings


class Usage(NamedTuple):
    """What `shutil.disk_usage` gives."""

    free: int


def test_a_run_writes_a_checkpoint_with_everything_beside_it(plan: Callable[..., RunPlan]) -> None:
    report = pretrain(plan("run", "training.evaluate_every=1s"), plot=True)
    folder = Path("run")
    assert {p.name for p in folder.iterdir()} == {
        "README.md",
        "config.json",
        "loss.png",
        "metrics.jsonl",
        "model.safetensors",
        "report.html",
        "settings.toml",
        "tokenizer.json",
        "tokenizer_config.json",
        "training",
    }
    assert not [p for p in Path().iterdir() if p.name.startswith(".run")]
    assert (report.state.steps, report.interrupted, report.state.complete) == (8, False, True)
    rows = read_metrics(folder / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == list(range(1, 9))
    assert [row["batch"] for row in steps] == [4, 4, 8, 8, 12, 12, 12, 12]
    assert steps[-1]["tokens"] == report.state.tokens == 72 * 16
    assert [row["learning_rate"] for row in steps[:2]] == pytest.approx([2.5e-4, 3.75e-4])
    assert all(row["gradient_norm"] > 0 and row["tokens_per_second"] > 0 for row in steps)
    assert rows[0]["step"] == 0
    assert rows[0]["held_out_loss"] == report.state.held_out["first"]
    assert rows[-1]["held_out_loss"] == report.state.held_out["last"]
    config = read_config(folder)
    assert config.vocab_size == len(json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"])
    assert config.hidden_dropout_prob == 0.1
    assert config.architectures == ("UltraFastBertForMaskedLM",)
    assert load_settings(folder / "settings.toml") == plan("other").settings.__class__(
        **{**vars(plan("other").settings), "training": load_settings(folder / "settings.toml").training}
    )
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"{report.state.held_out['last']:.4f} nats" in card
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_training_lowers_the_held_out_loss_and_fills_masks(plan: Callable[..., RunPlan]) -> None:
    end = ("training.steps=150", "training.batch_size=16", "training.micro_batch_size=16", "training.dropout=0")
    report = pretrain(plan("run", *end, "training.peak_learning_rate=0.01"), plot=False)
    assert report.state.held_out["first"] > 4.0
    # 2.58 nats is what the frequencies of the words give.
    assert report.state.held_out["last"] < 2.7
    assert len(report.examples) == 4
    assert all(len(example.candidates) == 3 for example in report.examples)
    text = "\n".join(report.lines())
    assert "Held-out loss: 4." in text
    assert "ufbert infer run - --task fill-mask" in text


def test_an_interrupted_run_resumes_to_the_same_weights(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pretrain(plan("whole"), plot=False)
    at_step(5, interrupt, monkeypatch)  # of three micro-batches, so it stops within the step
    report = pretrain(plan("parts"), plot=False)
    assert (report.interrupted, report.state.steps, report.state.complete) == (True, 5, False)
    assert "Continue with: ufbert pretrain --resume --out parts" in report.lines()
    assert "Stopping after this micro-batch, then saving" in capfd.readouterr().err
    with Path("parts/metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 1.0}\n{"step": 7, "lo')  # as a crash after the checkpoint leaves it
    resumed = pretrain(plan("parts", resume=True), plot=False)
    assert (resumed.interrupted, resumed.state.steps, resumed.state.sessions) == (False, 8, 2)
    expected, actual = weights("whole"), weights("parts")
    assert expected.keys() == actual.keys()
    for name, parameter in expected.items():
        assert torch.equal(actual[name], parameter), name
    first, second = (read_metrics(Path(f, "metrics.jsonl")) for f in ("whole", "parts"))
    kept = ("step", "tokens", "loss", "learning_rate", "batch", "gradient_norm", "held_out_loss")
    assert [[row.get(k) for k in kept] for row in first] == [[row.get(k) for k in kept] for row in second]
    optimizers = [Path(f, "training", "optimizer.safetensors").read_bytes() for f in ("whole", "parts")]
    assert optimizers[0] == optimizers[1]


def test_sigterm_saves_too_and_the_handlers_are_put_back(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    at_step(2, lambda: os.kill(os.getpid(), signal.SIGTERM), monkeypatch)
    report = pretrain(plan("run"), plot=False)
    assert report.interrupted
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    assert (Path("run") / "training" / "state.json").is_file()


def test_a_second_interrupt_stops_at_once_and_leaves_the_last_checkpoint(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice() -> None:
        interrupt()
        interrupt()

    at_step(3, twice, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        pretrain(plan("run"), plot=False)
    assert sorted(p.name for p in Path().iterdir()) == ["cache", "corpus.txt", "run"]
    report = pretrain(plan("run", resume=True), plot=False)
    assert report.state.steps == 8


def test_a_complete_run_has_nothing_to_resume(plan: Callable[..., RunPlan]) -> None:
    pretrain(plan("run", "training.steps=1"), plot=False)
    before = Path("run/model.safetensors").read_bytes()
    report = pretrain(plan("run", resume=True))
    assert report.already_complete
    assert "this run is complete (1 steps" in report.lines()[0]
    assert Path("run/model.safetensors").read_bytes() == before


def test_a_resumed_run_refuses_other_settings(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(1, interrupt, monkeypatch)
    pretrain(plan("run"), plot=False)
    with pytest.raises(ConfigError, match=r"run: this run has model.depth = 3, not 4; resume it without"):
        plan("run", "model.depth=4", resume=True)
    with pytest.raises(ConfigError, match=r"this run has training.steps = 8, not 0"):
        plan("run", "training.tokens=4000", resume=True)
    Path("ufbert.toml").write_text("[model]\ndepth = 9\n")
    resumed = plan("run", "training.save_every=3m", "model.depth=3", resume=True)
    assert resumed.settings.training.save_every == "3m"
    with Path("corpus.txt").open("a") as file:
        file.write("\none more document\n")
    with pytest.raises(ConfigError, match=r"run: the corpus .*corpus.txt or its tokenizer has changed"):
        pretrain(resumed)


def test_there_must_be_a_run_to_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"absent: no such folder, so there is no run to resume"):
        plan_run(Path("absent"), resume=True)
    Path("other").mkdir()
    with pytest.raises(CheckpointError, match=r"other: holds no pretraining run to resume"):
        plan_run(Path("other"), resume=True)
    with pytest.raises(CheckpointError, match=r"runs/pretrain: no such run to resume; name its folder with --out"):
        plan_run(resume=True)


def test_default_folders_are_numbered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert plan_run().folder == Path("runs/pretrain")
    Path("runs/pretrain/training").mkdir(parents=True)
    assert plan_run().folder == Path("runs/pretrain-2")
    for name in ("pretrain-2", "pretrain-10", "pretrain-old"):
        Path("runs", name).mkdir()
    assert plan_run().folder == Path("runs/pretrain-3")


def test_an_existing_folder_is_not_overwritten(plan: Callable[..., RunPlan]) -> None:
    pretrain(plan("run", "training.steps=1"), plot=False)
    with pytest.raises(OutputError, match=r"run: holds a run already; continue it with --resume"):
        plan("run")
    Path("full").mkdir()
    Path("full/file").touch()
    with pytest.raises(OutputError, match=r"full: already exists; choose another --out for the run"):
        plan("full")


def test_tokens_and_time_end_a_run_too(plan: Callable[..., RunPlan]) -> None:
    by_tokens = pretrain(plan("tokens", "training.tokens=1000"), plot=False)
    assert by_tokens.state.tokens == math.ceil(1000 / 16) * 16
    by_time = pretrain(plan("time", "training.budget=0.5s"), plot=False)
    assert by_time.state.seconds >= 0.5
    rates = [row["learning_rate"] for row in read_metrics(Path("time/metrics.jsonl")) if "learning_rate" in row]
    assert max(rates) <= 1e-3


def test_the_micro_batch_changes_nothing_but_rounding(plan: Callable[..., RunPlan]) -> None:
    same = ("training.dropout=0", "training.batch_ramp_fraction=0", "training.steps=3")
    pretrain(plan("one", *same, "training.micro_batch_size=12"), plot=False)
    pretrain(plan("many", *same, "training.micro_batch_size=5"), plot=False)
    losses = [[row["loss"] for row in read_metrics(Path(f, "metrics.jsonl")) if "loss" in row] for f in ("one", "many")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_bfloat16_trains(plan: Callable[..., RunPlan]) -> None:
    report = pretrain(plan("run", "training.precision=bfloat16", "training.steps=3"), plot=False)
    assert report.state.skipped_steps == 0
    assert all(p.dtype == torch.float32 for p in weights("run").values())


def test_steps_without_a_finite_loss_are_skipped_and_end_the_run_when_they_go_on(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    original = UltraFastBertForMaskedLM.forward
    calls = []

    def forward(self: UltraFastBertForMaskedLM, *args: Any, **kwargs: Any) -> Any:
        output = original(self, *args, **kwargs)
        if self.training:
            calls.append(1)
            if len(calls) > 2:
                assert output.loss is not None
                output.loss = output.loss * math.inf
        return output

    monkeypatch.setattr(UltraFastBertForMaskedLM, "forward", forward)
    # Steps of 4 sequences each: the twelfth has those from 44 to 47, at 0.25 + 0.75 * 11 / 30 of the peak.
    where = r"the last at learning rate 0\.000525 on the run's sequences 44 to 47; the last finite weights are in run; "
    with pytest.raises(ConfigError, match=rf"training diverged: 10 steps in a row up to step 12 .*, {where}lower"):
        pretrain(plan("run", "training.steps=40", "training.batch_size=4"), plot=False)
    said = capfd.readouterr().err
    assert said.count("skipped") == 1
    assert "Step 3 (learning rate 0.0003, sequences 8 to 11): loss inf, gradient norm " in said
    assert all(p.isfinite().all() for p in weights("run").values())
    rows = read_metrics(Path("run/metrics.jsonl"))
    assert len(rows) == 1 + 2 + NON_FINITE_STEPS
    assert rows[-1]["loss"] is None


def test_sizes_that_cannot_be_are_told_before_anything_is_made(plan: Callable[..., RunPlan]) -> None:
    with pytest.raises(ConfigError, match=r"training this model needs [\d,.]+ GiB for weights, gradients and AdamW"):
        pretrain(plan("run", "model.num_hidden_layers=80", "model.hidden_size=4096", "model.depth=16"))
    assert not Path("run").exists()
    assert not Path("cache").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(plan: Callable[..., RunPlan]) -> None:
    with pytest.raises(BackendError, match="use --device cpu"):
        pretrain(plan("run", "training.device=cuda"))
    assert not Path("run").exists()


def test_memory_that_runs_out_is_one_line(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    def exhaust() -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    at_step(1, exhaust, monkeypatch)
    with pytest.raises(BackendError, match=r"too little memory for a micro-batch; lower training.micro_batch_size"):
        pretrain(plan("run"))


def test_a_damaged_training_state_is_one_line(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    at_step(1, interrupt, monkeypatch)
    pretrain(plan("run"), plot=False)
    Path("run/training/optimizer.safetensors").write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match=r"optimizer.safetensors: missing or damaged"):
        pretrain(plan("run", resume=True))
    Path("run/training/state.json").write_text('{"a": 1}')
    with pytest.raises(CheckpointError, match=r"state.json: not the state of a run by this version"):
        plan("run", resume=True)


def test_a_checkpoint_that_fails_on_the_way_does_not_end_the_run(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    original = training_state.write_state
    calls = []

    def write_state(*args: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        original(*args)

    monkeypatch.setattr("ufbert.pretraining.saving.write_state", write_state)
    report = pretrain(plan("run", "training.save_every=0.001s"), plot=False)
    assert report.state.complete
    assert "Not saved, will try again: " in (text := capfd.readouterr().err)
    assert "no space left on the disk" in text


def test_a_disk_too_small_for_two_checkpoints_is_told_at_once(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(free=100_000))
    with pytest.raises(OutputError, match=r"run: the run's checkpoints need 0 MiB, the disk has 0 MiB left"):
        pretrain(plan("run"))
    assert not Path("run").exists()


def test_a_disk_that_is_full_at_the_end_leaves_the_last_checkpoint(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        def fail(*args: Any, **kwargs: Any) -> None:
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        monkeypatch.setattr("ufbert.checkpoint.folder.save_file", fail)

    at_step(7, fill, monkeypatch)
    expected = r"/run: no space left on the disk; .*; the checkpoint of step 0 stays, continue it with --resume$"
    with pytest.raises(OutputError, match=expected):
        pretrain(plan("run"), plot=False)
    monkeypatch.setattr("ufbert.checkpoint.folder.save_file", save_file)
    assert pretrain(plan("run", resume=True), plot=False).state.steps == 8


def test_metrics_wait_for_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = MetricsLog(tmp_path / "absent" / "metrics.jsonl")
    log.add(step=1, loss=math.nan)
    with pytest.raises(OutputError):
        log.flush()
    log.file.parent.mkdir()
    log.add(step=2, loss=1.0)
    log.flush()
    log.flush()
    assert read_metrics(log.file) == [{"step": 1, "loss": None}, {"step": 2, "loss": 1.0}]
    keep_until(log.file, 1)
    assert read_metrics(log.file) == [{"step": 1, "loss": None}]
    log.file.write_text("{}\n{")
    with pytest.raises(CheckpointError, match=r"metrics.jsonl:2: not a JSON line"):
        read_metrics(log.file)


def test_a_loss_curve_of_nothing_is_empty_and_not_an_error(tmp_path: Path) -> None:
    draw_loss_curve([], tmp_path / "loss.png", "empty")
    assert (tmp_path / "loss.png").stat().st_size > 1000
