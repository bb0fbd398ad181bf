"""Checkpoints that a run keeps beside its latest."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pretraining_runs import at_step, interrupt, weights

from ufbert.commands.app import main
from ufbert.errors import CheckpointError, ConfigError
from ufbert.pretraining.held_out import HeldOut, Measurement
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan, plan_run
from ufbert.training.optimization import named_parameters

OFTEN = ("training.save_every=0.001s", "training.evaluate_every=1h")


def lose(losses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the held-out loss take these values, one measurement after another."""
    values = iter(losses)
    monkeypatch.setattr(HeldOut, "measure", lambda *_: Measurement(next(values), []))


def kept(run: str) -> tuple[list[str], dict[str, Any]]:
    """The folders of kept checkpoints, and their index."""
    folder = Path(run, "checkpoints")
    return sorted(p.name for p in folder.iterdir() if p.is_dir()), json.loads((folder / "checkpoints.json").read_text())


def test_the_newest_and_the_best_are_kept(plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    lose([9.0, 4.0, 3.0, 2.0, 5.0, 6.0, 7.0, 8.0, 8.5], monkeypatch)  # before, after steps 1 to 7, and at the end
    monkeypatch.setattr("ufbert.pretraining.saving.write_state", keeping := KeepWeights())
    pretrain(plan("run", "training.keep_checkpoints=2", *OFTEN), plot=False)
    folders, index = kept("run")
    assert folders == ["best", "step-000007", "step-000008"]
    assert index == {
        "newest": [{"step": 7, "held_out_loss": 8.0}, {"step": 8, "held_out_loss": 8.5}],
        "best": {"step": 3, "held_out_loss": 2.0},
    }
    for folder, step in (("best", 3), ("step-000007", 7), ("step-000008", 8)):
        path = Path("run/checkpoints", folder)
        assert {p.name for p in path.iterdir()} == {
            "README.md", "config.json", "model.safetensors", "settings.toml", "tokenizer.json", "tokenizer_config.json"
        }  # fmt: skip
        assert f"| optimiser steps | {step} |" in (path / "README.md").read_text(encoding="utf-8")
        for name, parameter in weights(str(path)).items():
            assert torch.equal(parameter, keeping.by_step[step][name])
    card = Path("run/README.md").read_text(encoding="utf-8")
    assert "| `checkpoints/step-000007` | 7 | 8.0000 |" in card
    assert "| `checkpoints/best` | 3 | 2.0000 |" in card
    Path("masked.txt").write_text("the [MASK] sleeps\n", encoding="utf-8")
    with pytest.raises(SystemExit) as stop:
        main(["infer", "run/checkpoints/best", "masked.txt", "--output", "filled.jsonl"])
    assert stop.value.code == 0
    with pytest.raises(CheckpointError, match="holds no pretraining run to resume"):
        plan_run(Path("run/checkpoints/best"), resume=True)


class KeepWeights:
    """In the place of `write_state`: does the same, and keeps a copy of the weights of each step."""

    def __init__(self) -> None:
        from ufbert.pretraining.state import write_state

        self.original = write_state
        self.by_step: dict[int, dict[str, torch.Tensor]] = {}

    def __call__(self, folder: Path, state: Any, optimizer: torch.optim.Optimizer) -> None:
        self.by_step[state.steps] = {name: p.detach().clone() for name, p in named_parameters(optimizer).items()}
        self.original(folder, state, optimizer)


def test_by_default_only_the_latest_stays(plan: Callable[..., RunPlan]) -> None:
    pretrain(plan("run", *OFTEN), plot=False)
    assert not Path("run/checkpoints").exists()
    with pytest.raises(ConfigError, match=r"training.keep_checkpoints must be at least 0, not -1"):
        plan("other", "training.keep_checkpoints=-1")


def test_kept_checkpoints_survive_a_resume_that_may_keep_fewer(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose([9.0, 1.0, 2.0, 3.0], monkeypatch)
    at_step(3, interrupt, monkeypatch)
    pretrain(plan("run", "training.keep_checkpoints=3", *OFTEN), plot=False)
    folders, index = kept("run")
    assert folders == ["best", "step-000001", "step-000002", "step-000003"]
    assert index["best"] == {"step": 1, "held_out_loss": 1.0}
    lose([4.0, 5.0, 6.0, 7.0, 8.0], monkeypatch)
    pretrain(plan("run", "training.keep_checkpoints=1", resume=True), plot=False)
    folders, index = kept("run")
    assert folders == ["best", "step-000008"]
    assert index["best"] == {"step": 1, "held_out_loss": 1.0}


def test_a_checkpoint_that_a_signal_forces_is_kept_unmeasured(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    at_step(3, interrupt, monkeypatch)
    pretrain(plan("run", "training.keep_checkpoints=3", "training.save_every=1h"), plot=False)
    assert kept("run") == (["step-000003"], {"newest": [{"step": 3, "held_out_loss": None}], "best": None})
    assert "| `checkpoints/step-000003` | 3 | not measured |" in Path("run/README.md").read_text(encoding="utf-8")


def test_kept_checkpoints_may_be_removed_while_the_run_goes_on(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lose([9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0], monkeypatch)

    def remove() -> None:
        for folder in ("best", "step-000004"):
            shutil.rmtree(Path("run/checkpoints", folder))

    at_step(5, remove, monkeypatch)
    pretrain(plan("run", "training.keep_checkpoints=8", *OFTEN), plot=False)
    folders, index = kept("run")
    assert folders == ["best", *(f"step-00000{step}" for step in (1, 2, 3, 5, 6, 7, 8))]
    assert index["best"] == {"step": 6, "held_out_loss": 6.0}
    assert "Not saved" not in capfd.readouterr().err


@pytest.mark.parametrize("links", [True, False])
def test_a_full_disk_leaves_the_kept_checkpoints_as_they_were(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], links: bool
) -> None:
    """Also where files cannot have two names, so that what is kept is copied."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: fail(errno.EPERM))
    before: list[Any] = []

    def fill() -> None:
        before.append(kept("run"))
        monkeypatch.setattr("ufbert.pretraining.kept_checkpoints.link_or_copy", lambda *_: fail(errno.ENOSPC))

    at_step(5, fill, monkeypatch)
    with pytest.raises(OSError, match=r"no space left on the disk; .*; the checkpoint of step 5 stays") as stop:
        pretrain(plan("run", "training.keep_checkpoints=2", *OFTEN), plot=False)
    assert "\n" not in str(stop.value)
    assert capfd.readouterr().err.count("Not saved, will try again: ") == 3
    assert [kept("run")] == before
    assert before[0][0] == ["best", "step-000004", "step-000005"]
    assert sorted(p.name for p in Path().iterdir()) == ["cache", "corpus.txt", "run"]


def fail(number: int) -> None:
    """As the system does."""
    raise OSError(number, os.strerror(number))
