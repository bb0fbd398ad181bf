"""A run that goes on elsewhere, from an older folder, or although something beside it fails."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli
import torch
from pretraining_runs import at_step, interrupt, weights

from ufbert import UltraFastBertForMaskedLM
from ufbert.errors import CheckpointError, ConfigError
from ufbert.model.attention import SelfAttention
from ufbert.pretraining.computed_on import ComputedOn
from ufbert.pretraining.metrics import read_metrics
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan
from ufbert.pretraining.step import TrainingStep
from ufbert.settings.toml import load_settings, settings_to_dict

STATE = Path("run/training/state.json")


def edit_state(**changes: Any) -> None:
    """Write other values into the state of `run`."""
    STATE.write_text(json.dumps({**json.loads(STATE.read_text()), **changes}))


def test_the_folder_of_an_older_run_resumes_to_the_same_weights(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(plan("whole"), plot=False)
    at_step(5, interrupt, monkeypatch)
    pretrain(plan("run"), plot=False)
    settings = settings_to_dict(load_settings(Path("run/settings.toml")))
    del settings["training"]["tf32"], settings["training"]["compile"]
    edit_state(settings=settings)
    state = json.loads(STATE.read_text())
    del state["computed_on"]
    STATE.write_text(json.dumps(state))
    Path("run/settings.toml").unlink()
    pretrain(plan("run", resume=True), plot=False)
    expected, actual = weights("whole"), weights("run")
    assert all(torch.equal(actual[name], parameter) for name, parameter in expected.items())
    assert "settings" not in json.loads(STATE.read_text())
    # As it was computed before there was a choice.
    assert tomli.loads(Path("run/settings.toml").read_text())["training"]["tf32"] is False


def test_settings_are_kept_once_and_must_be_there(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(1, interrupt, monkeypatch)
    pretrain(plan("run"), plot=False)
    assert "settings" not in json.loads(STATE.read_text())
    assert plan("run", resume=True).settings == load_settings(Path("run/settings.toml"))
    Path("run/settings.toml").unlink()
    with pytest.raises(CheckpointError, match=r"run/settings.toml: missing, so the run cannot be resumed"):
        plan("run", resume=True)


def test_another_device_precision_or_number_of_processes_is_told(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    at_step(1, interrupt, monkeypatch)
    pretrain(plan("run", "training.precision=auto"), plot=False)
    here = json.loads(STATE.read_text())["computed_on"]
    assert here["device"] == "cpu"
    assert here["processes"] == 1
    capfd.readouterr()
    other = "float32" if here["precision"] == "bfloat16" else "bfloat16"
    edit_state(computed_on={"device": "cuda", "precision": other, "processes": 2})
    at_step(2, interrupt, monkeypatch)
    pretrain(plan("run", resume=True), plot=False)
    assert (
        f"Computed on cuda, {other}, 2 processes until now, on cpu, {here['precision']}, 1 process from here: the "
        f"precision changes (--set training.precision={other} keeps {other}), dropout draws other numbers, sums "
        "round differently; the order of the data and its masks stay\n"
    ) in capfd.readouterr().err
    at_step(3, interrupt, monkeypatch)
    pretrain(plan("run", resume=True), plot=False)
    assert "until now" not in capfd.readouterr().err
    edit_state(computed_on={"device": "cpu", "precision": other, "processes": 1})
    kept = plan("run", f"training.precision={other}", resume=True)
    pretrain(kept, plot=False)
    assert "until now" not in capfd.readouterr().err
    assert tomli.loads(Path("run/settings.toml").read_text())["training"]["precision"] == other


def test_a_precision_that_the_run_has_not_had_is_refused(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(1, interrupt, monkeypatch)
    pretrain(plan("run"), plot=False)
    with pytest.raises(ConfigError, match=r"this run has training.precision = 'float32', not 'bfloat16'"):
        plan("run", "training.precision=bfloat16", resume=True)
    with pytest.raises(ConfigError, match=r"this run has training.tf32 = True, not False"):
        plan("run", "training.tf32=false", resume=True)


def test_what_changes_depends_on_what_differs() -> None:
    one, two = ComputedOn("cpu", "float32", 1), ComputedOn("cpu", "float32", 2)
    assert one.change_from(None, 0.1) is None
    assert one.change_from(one, 0.1) is None
    assert "dropout" not in str(two.change_from(one, 0.0))
    assert "dropout draws other numbers" in str(two.change_from(one, 0.1))
    assert "precision" not in str(two.change_from(one, 0.1))
    assert "TF32 takes a GPU" in str(one.change_from(ComputedOn("cuda", "tf32", 1), 0.0))
    assert ComputedOn.from_dict(two.to_dict()) == two


@pytest.mark.parametrize(
    "error", [RuntimeError("no font\nfound"), OSError(errno.ENOSPC, "No space left on device"), MemoryError()]
)
def test_a_picture_that_cannot_be_drawn_is_a_note_and_the_checkpoint_is_saved(
    error: Exception, plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(rows: object, destination: Path, title: str) -> None:
        destination.write_bytes(b"half")
        raise error

    monkeypatch.setattr("ufbert.pretraining.saving.draw_loss_curve", fail)
    monkeypatch.setattr("ufbert.pretraining.saving.draw_pictures", lambda *_: [])  # which takes longer than the run
    report = pretrain(plan("run", "training.steps=3", "training.save_every=0.001s"), plot=True)
    assert report.state.complete
    assert report.files == ("metrics.jsonl", "report.html")
    assert json.loads(STATE.read_text())["complete"]
    assert not Path("run/loss.png").exists()
    notes = [line for line in capfd.readouterr().err.splitlines() if line.startswith("No loss curve: loss.png cannot")]
    assert len(notes) == 1
    assert notes[0].endswith(("no font found", "No space left on device", "MemoryError"))


def test_the_models_config_says_what_is_saved_while_it_trains_with_other_dropout(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[UltraFastBertForMaskedLM] = []
    original = TrainingStep.take

    def take(self: TrainingStep, *rest: Any) -> Any:
        models.append(self.model)
        return original(self, *rest)

    monkeypatch.setattr(TrainingStep, "take", take)
    pretrain(plan("run", "training.dropout=0.25", "training.steps=1"), plot=False)
    (model,) = models
    assert (model.config.hidden_dropout_prob, model.config.attention_probs_dropout_prob) == (0.1, 0.1)
    assert {m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)} == {0.25}
    assert {m.dropout for m in model.modules() if isinstance(m, SelfAttention)} == {0.25}


def test_the_positions_to_predict_are_never_looked_for_on_the_device(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def search(labels: torch.Tensor) -> torch.Tensor:
        raise AssertionError("on a GPU this waits")

    monkeypatch.setattr("ufbert.model.heads.labelled_positions", search)
    assert pretrain(plan("run", "training.steps=2"), plot=False).state.complete


def test_metrics_and_report_tell_the_share_of_the_hardware(plan: Callable[..., RunPlan]) -> None:
    report = pretrain(plan("run", "training.steps=2"), plot=False)
    rows = [row for row in read_metrics(Path("run/metrics.jsonl")) if "loss" in row]
    assert all(0 < row["mfu"] < 1 for row in rows)
    assert len({round(math.log(row["mfu"] / row["tokens_per_second"]), 6) for row in rows}) == 1
    (line,) = [line for line in report.lines() if line.startswith("Hardware: ")]
    assert line.endswith("GFLOP/s that float32 products reach here (MFU, neurons on the path alone)")
    assert "float32 products reach here" in Path("run/README.md").read_text()


def test_compiling_needs_a_compiler(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ufbert.pretraining.run.no_compiler", lambda: "torch.compile needs a C++ compiler")
    with pytest.raises(ConfigError, match=r"training.compile: torch.compile needs a C\+\+ compiler; install one, or"):
        pretrain(plan("run", "training.compile=true"))
    assert not Path("run").exists()
