"""The recipe's schedules and parameter groups."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from ufbert import UltraFastBertConfig, UltraFastBertForMaskedLM
from ufbert.settings.toml import TrainingSettings
from ufbert.training.optimization import build_optimizer, parameter_groups, set_learning_rate
from ufbert.training.schedules import Schedule


def schedule(**changes: Any) -> Schedule:
    """A schedule of 1,000 steps unless `changes` say otherwise."""
    ends: dict[str, Any] = {"budget": ""}
    if not {"steps", "tokens", "budget"} & set(changes):
        ends["steps"] = 1000
    return Schedule(TrainingSettings(**{**ends, **changes}))


@pytest.mark.parametrize(("progress", "share"), [(0.0, 0.25), (0.375, 0.625), (0.75, 1.0), (0.875, 0.5), (1.0, 0.0)])
def test_the_triangle(progress: float, share: float) -> None:
    assert schedule(peak_learning_rate=2e-3).learning_rate(progress) == pytest.approx(2e-3 * share)


def test_a_triangle_with_its_peak_at_an_end() -> None:
    falling = schedule(peak_fraction=0.0, peak_learning_rate=1.0)
    assert [falling.learning_rate(p) for p in (0.0, 0.5, 1.0)] == [1.0, 0.5, 0.0]
    rising = schedule(peak_fraction=1.0, peak_learning_rate=1.0, initial_learning_rate_fraction=0.0)
    assert [rising.learning_rate(p) for p in (0.0, 0.5, 1.0)] == [0.0, 0.5, 1.0]


def test_the_ramp_goes_from_a_micro_batch_to_the_batch_in_whole_micro_batches() -> None:
    ramp = schedule(batch_size=104, micro_batch_size=10, batch_ramp_fraction=0.5)
    batches = [ramp.batch(i / 200) for i in range(201)]
    assert batches[0] == 10
    assert batches == sorted(batches)
    assert all(b % 10 == 0 for b in batches[:100])
    assert ramp.batch(0.25) == 60  # half of the way from 10 to 104 is 57
    assert set(batches[100:]) == {104}


def test_no_ramp_and_a_batch_below_the_micro_batch() -> None:
    assert schedule(batch_size=64, batch_ramp_fraction=0.0).batch(0.0) == 64
    small = schedule(batch_size=8, micro_batch_size=32)
    assert {small.batch(i / 10) for i in range(11)} == {8}


def test_progress_is_counted_as_the_end_is() -> None:
    assert schedule(steps=200).progress(50, 9, 9.0) == 0.25
    assert schedule(tokens=4000).progress(9, 3000, 9.0) == 0.75
    assert schedule(budget="1h").progress(9, 9, 1800.0) == 0.5
    assert schedule(budget="1s").progress(9, 9, 3.0) == 1.0


def test_sequences_left() -> None:
    ramp = schedule(steps=100, batch_size=40, micro_batch_size=10)
    exact = sum(ramp.batch(step / 100) for step in range(100))
    assert ramp.sequences_left(0, 0, 8) == pytest.approx(exact, rel=0.02)
    assert ramp.sequences_left(100, 0, 8) == 0
    assert schedule(tokens=800).sequences_left(3, 200, 8) == 75
    assert math.isnan(schedule(budget="1h").sequences_left(3, 200, 8))


def test_norms_biases_and_scales_do_not_decay(tiny_config: UltraFastBertConfig) -> None:
    model = UltraFastBertForMaskedLM(tiny_config.replace(use_bias=True, decoder_bias=True, head_transform=True))
    decayed, plain = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.01, 0.0)
    assert dict([*decayed["params"], *plain["params"]]) == dict(model.named_parameters())
    decayed_names, plain_names = ({name for name, _ in group["params"]} for group in (decayed, plain))
    assert {n.rpartition(".")[2] for n in decayed_names} == {"weight", "w_in", "w_out"}
    assert not any("norm" in n for n in decayed_names)
    assert {n.rpartition(".")[2] for n in plain_names} == {"bias", "b_in", "b_out", "position_scale", "weight"}
    assert all("norm" in n for n in plain_names if n.endswith(".weight"))


def test_adamw_has_the_recipes_constants(tiny_config: UltraFastBertConfig) -> None:
    optimizer = build_optimizer(UltraFastBertForMaskedLM(tiny_config), TrainingSettings())
    assert isinstance(optimizer, torch.optim.AdamW)
    assert all((g["betas"], g["eps"]) == ((0.9, 0.98), 1e-12) for g in optimizer.param_groups)
    set_learning_rate(0.5, optimizer)
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.5]
