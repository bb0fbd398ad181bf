"""Runs that begin with a checkpoint's weights: `ufbert pretrain --from`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ufbert import UltraFastBertForMaskedLM, UltraFastBertModel
from ufbert.commands.app import main
from ufbert.pretraining.metrics import read_metrics
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan, plan_run

SHORT = [
    *("--set", "data.sequence_length=16", "--set", "training.batch_size=4"),
    *("--set", "training.micro_batch_size=4", "--set", "training.precision=float32"),
]

GoOn = Callable[..., tuple[int, str]]


@pytest.fixture
def begun(plan: Callable[..., RunPlan]) -> Path:
    """A finished run, in the folder `begun`."""
    pretrain(plan("begun"), plot=False)
    return Path("begun")


@pytest.fixture
def go_on(corpus: Path, capsys: pytest.CaptureFixture[str]) -> GoOn:
    """`ufbert pretrain --from begun --out OUT`, two steps: exit code and what it says."""

    def command(out: str, *more: str, source: str = "begun") -> tuple[int, str]:
        words = ["pretrain", "--from", source, "--corpus", str(corpus), "--out", out, "--steps", "2", "--no-plot"]
        with pytest.raises(SystemExit) as exit_:
            main([*words, *SHORT, "--set", "data.cache_dir=cache", *more])
        return int(exit_.value.code or 0), capsys.readouterr().err

    return command


def held_out_losses(run: Path) -> list[float]:
    return [row["held_out_loss"] for row in read_metrics(run / "metrics.jsonl") if "held_out_loss" in row]


def test_a_run_begins_with_the_weights_tokenizer_and_model_of_a_checkpoint(begun: Path, go_on: GoOn) -> None:
    code, output = go_on("on", "--set", "training.peak_learning_rate=0.0")
    assert code == 0, output
    before, after = (UltraFastBertForMaskedLM.from_pretrained(folder).state_dict() for folder in (begun, "on"))
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert (Path("on") / "tokenizer.json").read_bytes() == (begun / "tokenizer.json").read_bytes()
    assert held_out_losses(Path("on"))[0] == pytest.approx(held_out_losses(begun)[-1], rel=1e-3)
    code, output = go_on("trained")
    assert code == 0, output
    trained = UltraFastBertForMaskedLM.from_pretrained("trained").state_dict()
    assert not any(torch.equal(trained[name], before[name]) for name in before if name.endswith("w_in"))


def test_an_encoder_without_a_head_gets_one(begun: Path, go_on: GoOn) -> None:
    model = UltraFastBertForMaskedLM.from_pretrained(begun)
    encoder = UltraFastBertModel(model.config.replace(architectures=()))
    encoder.load_state_dict(model.encoder.state_dict())
    encoder.save_pretrained("encoder")
    shutil.copy(begun / "tokenizer.json", "encoder")
    code, output = go_on("on", "--set", "training.peak_learning_rate=0.0", source="encoder")
    assert code == 0, output
    after = UltraFastBertForMaskedLM.from_pretrained("on").encoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in encoder.state_dict().items())


def test_the_run_resumes_without_the_checkpoint(
    begun: Path, plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch, corpus: Path
) -> None:
    from pretraining_runs import at_step, interrupt, weights

    def begin(folder: str) -> RunPlan:
        options = {"data.corpus": str(corpus), "training.initial_checkpoint": "begun", "training.steps": 6}
        return plan_run(Path(folder), overrides=["data.sequence_length=16", "data.cache_dir=cache"], options=options)

    pretrain(begin("whole"), plot=False)
    with monkeypatch.context() as patched:
        at_step(3, interrupt, patched)
        assert pretrain(begin("run"), plot=False).interrupted
    (begun / "model.safetensors").unlink()
    pretrain(plan_run(Path("run"), resume=True), plot=False)
    whole, run = weights("whole"), weights("run")
    assert all(torch.equal(whole[name], run[name]) for name in whole)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "model.depth=4"], "--set model.depth=4: the model is that of begun"),
        (["--tokenizer", "other.json"], "data.tokenizer = 'other.json': the run begins with begun, which has its own"),
        (["--set", "data.sequence_length=64"], "16"),
    ],
)
def test_what_the_checkpoint_decides_cannot_be_asked_for(
    begun: Path, go_on: GoOn, more: list[str], message: str
) -> None:
    code, output = go_on("on", *more)
    assert code == 1
    assert message in output
    assert not Path("on").exists()


def test_what_is_no_checkpoint_of_ours_or_has_no_tokenizer_is_refused(begun: Path, go_on: GoOn) -> None:
    code, output = go_on("on", source="nothing-here")
    assert (code, Path("on").exists()) == (1, False)
    assert "nothing-here" in output
    (begun / "tokenizer.json").unlink()
    code, output = go_on("on")
    assert code == 1
    assert "begun: has no tokenizer.json" in output
