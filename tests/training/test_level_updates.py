"""Levels of trees that move as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pretraining_runs import at_step, interrupt, weights
from torch import nn

from ufbert import FFF, UltraFastBertConfig, UltraFastBertForMaskedLM
from ufbert.cmm.operator import cmm
from ufbert.pretraining.run import pretrain
from ufbert.pretraining.run_folder import RunPlan, plan_run
from ufbert.settings.sections import TrainingSettings
from ufbert.training.level_updates import LevelUpdates, begin_equal
from ufbert.training.optimization import build_optimizer, named_parameters

STEPS = 4


class Apart(nn.Module):
    """The definition: rows as sums of what their level shares and 2^(-level / 2) of their own."""

    def __init__(self, layer: FFF) -> None:
        super().__init__()
        self.level = torch.tensor([(node + 1).bit_length() - 1 for node in range(layer.nodes)])
        share = torch.where(self.level > 0, 2.0 ** (-self.level / 2), 0.0)
        self.common, self.own = nn.ParameterDict(), nn.ParameterDict()
        self.share = {}
        for name in ("w_in", "b_in", "w_out"):
            rows = getattr(layer, name).detach()
            self.share[name] = share.view(1, -1, *[1] * (rows.ndim - 2)).to(rows.dtype)
            self.common[name] = nn.Parameter(torch.zeros_like(rows[:, : layer.depth + 1]))
            # The root has no step of its own, but it has a value.
            self.own[name] = nn.Parameter(
                rows / self.share[name].clamp_min(1e-30).masked_fill(self.share[name] == 0, 1)
            )
        self.root = {name: getattr(layer, name).detach()[:, :1].clone() for name in self.share}

    def rows(self, name: str) -> torch.Tensor:
        rows: torch.Tensor = self.common[name][:, self.level] + self.share[name] * self.own[name]
        return rows + F.pad(self.root[name].transpose(1, -1), (0, rows.shape[1] - 1)).transpose(1, -1)


@settings(max_examples=10, deadline=None)
@given(trees=st.integers(1, 3), depth=st.integers(1, 4), seed=st.integers(0, 1000))
def test_a_step_is_one_of_what_levels_share_and_one_of_each_nodes_own(trees: int, depth: int, seed: int) -> None:
    torch.manual_seed(seed)
    layer = FFF(6, trees, depth, backend="reference", initializer_range=0.5, dtype=torch.float64)
    nn.init.normal_(layer.b_in)
    apart = Apart(layer)
    levels = LevelUpdates(nn.Sequential(layer))
    optimizer = torch.optim.Adam([{"params": list(layer.named_parameters())}, *levels.groups()], lr=1e-3, eps=1e-30)
    levels.attach(optimizer)
    separate = torch.optim.Adam(apart.parameters(), lr=1e-3, eps=1e-30)
    for _ in range(STEPS):
        x, target = torch.randn(2, 20, 6, dtype=torch.float64)
        optimizer.zero_grad()
        (layer(x) * target).sum().backward()
        optimizer.step()
        separate.zero_grad()
        y = cmm(x, apart.rows("w_in"), apart.rows("b_in"), apart.rows("w_out"), "reference")
        (y * target).sum().backward()
        separate.step()
    for name in ("w_in", "b_in", "w_out"):
        torch.testing.assert_close(getattr(layer, name), apart.rows(name))
    assert all(not common.any() for _, _, common in levels.steps)


def test_trees_begin_as_a_dense_layer_of_a_neuron_a_level() -> None:
    torch.manual_seed(0)
    layer = FFF(8, 2, 3, initializer_range=0.5)
    begin_equal(nn.Sequential(layer))
    first = [0, 1, 3, 7]
    w_in, w_out = layer.w_in[:, first].flatten(0, 1), layer.w_out[:, first].flatten(0, 1)
    x = torch.randn(50, 8)
    torch.testing.assert_close(layer(x), F.gelu(x @ w_in.T) @ w_out)


def test_only_trees_with_a_choice_have_levels(tiny_config: UltraFastBertConfig) -> None:
    training = TrainingSettings(level_updates=True)
    flat = UltraFastBertForMaskedLM(tiny_config.replace(depth=0))
    dense = UltraFastBertForMaskedLM(tiny_config.replace(feedforward="dense"))
    for model in (flat, dense):
        assert set(named_parameters(build_optimizer(model, training))) == {name for name, _ in model.named_parameters()}
    model = UltraFastBertForMaskedLM(tiny_config)
    names = set(named_parameters(build_optimizer(model, training))) - {name for name, _ in model.named_parameters()}
    assert names == {
        f"encoder.layers.{layer}.feedforward.{rows}.levels"
        for layer in range(tiny_config.num_hidden_layers)
        for rows in ("w_in", "b_in", "w_out")
    }


def test_an_interrupted_run_with_level_updates_resumes_to_the_same_weights(
    plan: Callable[..., RunPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    on = "training.level_updates=true"
    pretrain(plan("whole", on), plot=False)
    pretrain(plan("without"), plot=False)
    with monkeypatch.context() as patched:
        at_step(3, interrupt, patched)
        assert pretrain(plan("run", on), plot=False).interrupted
    pretrain(plan_run(Path("run"), resume=True), plot=False)
    whole, run, without = weights("whole"), weights("run"), weights("without")
    assert all(torch.equal(whole[name], run[name]) for name in whole)
    assert not torch.equal(whole["encoder.layers.0.feedforward.w_in"], without["encoder.layers.0.feedforward.w_in"])
