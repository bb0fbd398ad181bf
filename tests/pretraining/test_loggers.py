"""TensorBoard and Weights & Biases beside `metrics.jsonl`, through their own writers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from pretraining_runs import at_step, interrupt

from ufbert.commands.app import main
from ufbert.errors import ConfigError
from ufbert.pretraining.loggers import LOGGERS
from ufbert.pretraining.metrics import read_metrics
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan
from ufbert.settings.sections import TrainingSettings

OFTEN = ("training.evaluate_every=0.001s", "training.save_every=0.001s")


class Recorder:
    """In the place of a writer."""

    def __init__(self) -> None:
        self.rows: dict[int, dict[str, float]] = {}
        self.closed = 0
        self.broken = False

    def log(self, step: int, values: dict[str, float]) -> None:
        if self.broken:
            raise OSError("no\nnetwork")
        self.rows.setdefault(step, {}).update(values)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """What `wandb` is replaced by, whether it is installed or not."""
    recorder = Recorder()
    monkeypatch.setitem(LOGGERS, "wandb", lambda *_: recorder)
    monkeypatch.setattr("ufbert.pretraining.run.require_loggers", lambda _: None)
    return recorder


def test_a_logger_gets_every_row_and_is_closed(plan: Callable[..., RunPlan], recorder: Recorder) -> None:
    pretrain(plan("run", 'training.loggers=["wandb"]', *OFTEN), plot=False)
    assert recorder.closed == 1
    assert sorted(recorder.rows) == list(range(9))
    for row in read_metrics(Path("run/metrics.jsonl")):
        logged = recorder.rows[row["step"]]
        for name in ("loss", "learning_rate", "tokens_per_second", "mfu", "held_out_loss"):
            assert name not in row or logged[name] == row[name]
        assert math.isfinite(logged["trees/used_leaves/layer_2"])
        assert math.isfinite(logged["trees/right_share/layer_1/level_3"])


def test_a_logger_that_fails_is_told_once_and_left_out(
    plan: Callable[..., RunPlan],
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    at_step(3, lambda: setattr(recorder, "broken", True), monkeypatch)
    report = pretrain(plan("run", 'training.loggers=["wandb"]'), plot=False)
    assert report.state.complete
    notes = [line for line in capfd.readouterr().err.splitlines() if "wandb" in line]
    assert notes == ["training.loggers: wandb has failed and gets no more of this session: no network"]


def test_an_unknown_logger_and_a_missing_extra_are_one_line(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"training.loggers must be one of tensorboard, wandb, not 'mlflow'"):
        plan("run", 'training.loggers=["mlflow"]')
    assert TrainingSettings(loggers="wandb").loggers == ("wandb",)
    monkeypatch.setattr("ufbert.pretraining.loggers.importlib.util.find_spec", lambda _: None)
    for name in ("tensorboard", "wandb"):
        with pytest.raises(SystemExit) as stop:
            main(["pretrain", "--steps", "1", "--out", "run", "--set", f'training.loggers=["{name}"]'])
        assert stop.value.code == 1
        expected = f"error: training.loggers = {name} needs {name}; install it with: pip install 'ufbert[{name}]'"
        assert capfd.readouterr().err.splitlines() == [expected]
    assert not Path("run").exists()


def stop_at(folder: str, step: int, plan: RunPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was interrupted there, with the settings of `plan`."""
    with monkeypatch.context() as patched:
        at_step(step, interrupt, patched)
        assert pretrain(plan, plot=False).state.steps == step
    assert plan.folder == Path(folder)


# Foreign packages warn, which is an error here.
@pytest.mark.filterwarnings("ignore")
def test_tensorboard_has_every_step_once_also_after_a_resume(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    chosen = 'training.loggers=["tensorboard"]'
    stop_at("run", 3, plan("run", *OFTEN), monkeypatch)
    # As a session that was killed after its last checkpoint leaves it: it logged steps that were never saved.
    state = Path("run/training/state.json")
    saved = {file: file.read_bytes() for file in Path("run").rglob("*") if file.is_file()}
    assert pretrain(plan("run", chosen, resume=True), plot=False).state.complete
    for file, content in saved.items():
        file.write_bytes(content)
    assert json.loads(state.read_text())["steps"] == 3
    assert pretrain(plan("run", chosen, resume=True), plot=False).state.complete
    assert "training.loggers" not in capfd.readouterr().err
    assert len(list(Path("run/tensorboard").iterdir())) == 2
    events = EventAccumulator("run/tensorboard", size_guidance={"scalars": 0}, purge_orphaned_data=True).Reload()
    rows = [row for row in read_metrics(Path("run/metrics.jsonl")) if row["step"] > 3 and "loss" in row]
    logged = events.Scalars("loss")
    assert [event.step for event in logged] == [row["step"] for row in rows] == [4, 5, 6, 7, 8]
    assert [event.value for event in logged] == pytest.approx([row["loss"] for row in rows], rel=1e-6)
    expected = {"learning_rate", "held_out_loss", "mfu", "trees/used_leaves/layer_1"}
    assert expected <= set(events.Tags()["scalars"])


@pytest.mark.filterwarnings("ignore")
def test_wandb_offline_goes_on_under_the_id_of_the_run(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # Nothing of it leaves this folder: no server is asked, no mistake reported, nothing kept at home.
    here = {f"WANDB_{name}": str(Path.cwd()) for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR")}
    for name, value in {"WANDB_MODE": "offline", "WANDB_ERROR_REPORTING": "false", **here}.items():
        monkeypatch.setenv(name, value)
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    stop_at("run", 3, plan("run", *OFTEN), monkeypatch)
    run_id = json.loads(Path("run/training/state.json").read_text())["run_id"]
    try:
        assert pretrain(plan("run", 'training.loggers=["wandb"]', resume=True), plot=False).state.complete
    finally:
        wandb.teardown()  # the process that writes for this one
    assert "training.loggers" not in capfd.readouterr().err
    (record,) = Path("wandb").glob(f"offline-run-*-{run_id}/run-{run_id}.wandb")
    content = record.read_bytes()
    for word in (b"held_out_loss", b"learning_rate", b"trees/used_leaves/layer_1", b"micro_batch_size"):
        assert word in content
